"""The client of Triton, against a real one with our own text model."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.pools import FailureReason
from contracts.service.settings import child_environment
from test_harness.conformance.asking import failure_of, items_of
from test_harness.triton_models.repository import BARE, write_text_model
from worker_adapters.base import Finished, GenerationRequest, LaunchSpec, Token
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineLost,
    EngineProtocolError,
    EngineRefused,
    EngineUnreachable,
)
from worker_adapters.tests.ports import free_port
from worker_adapters.transport import EngineTransport
from worker_adapters.triton import TritonClient
from worker_adapters.triton_launch import TritonLauncher

PROGRAM = os.environ.get("LLORCH_TRITON")
START_S = 30.0
DEADLINE_S = 20.0
STOP_S = 8.0
"""Twice what it takes; one whose model died waits for that one for 30 s."""
POLL_S = 0.05

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(
        not PROGRAM, reason="LLORCH_TRITON is not set; ci/engines makes what it names"
    ),
]


@dataclass(frozen=True)
class Running:
    """A Triton that was started."""

    process: subprocess.Popen[bytes]
    spec: LaunchSpec
    log: Path
    client: TritonClient

    def ended(self) -> FailureReason:
        """Why it ended, once it has."""
        code = self.process.wait(DEADLINE_S)
        return TritonLauncher().exit_reason(code, self.log.read_text().splitlines())


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """For the whole module, so that one server serves all its tests."""
    return "asyncio"


@pytest.fixture(scope="module")
async def server(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    async with serving(tmp_path_factory.mktemp("triton")) as running:
        yield running


@asynccontextmanager
async def serving(folder: Path, **model: Any) -> AsyncIterator[Running]:
    """A server whose model is ready; its process group is ended after."""
    await anyio.to_thread.run_sync(lambda: write_text_model(folder / "models", "tiny", **model))
    async with started(folder) as running:
        await until_observed(running)
        yield running


async def until_observed(running: Running) -> None:
    """As soon as it can be observed; raises what that raises but for its not being there yet."""
    with anyio.fail_after(START_S):
        while True:
            assert running.process.poll() is None, running.log.read_text()
            try:
                await running.client.observe()
            except (EngineUnreachable, EngineBusy, EngineLost):
                await anyio.sleep(POLL_S)
            else:
                return


@asynccontextmanager
async def started(
    folder: Path, name: str = "tiny", port: int | None = None, *arguments: str
) -> AsyncIterator[Running]:
    """A server of whatever is in `folder`."""
    spec = LaunchSpec(
        model_path=folder / "models",
        model_alias=name,
        host="127.0.0.1",
        port=free_port() if port is None else port,
        ctx=512,
        slots=2,
        device_uuids=(),
        engine_args=arguments,
        api_key="never-used",
        binary=PROGRAM,
    )
    plan, log = TritonLauncher().plan(spec), folder / "log"
    process = await anyio.to_thread.run_sync(_spawn, plan.argv, child_environment(plan.env), log)
    try:
        async with EngineTransport() as transport:
            base_url = f"http://127.0.0.1:{spec.port}"
            yield Running(process, spec, log, TritonClient(transport, base_url, None))
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_end, process)


def _spawn(argv: tuple[str, ...], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(argv, env=env, stdout=output, stderr=output, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The group: the models' own processes outlive a server that is killed."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def request_of(prompt: str = "The river", **fields: Any) -> GenerationRequest:
    given: dict[str, Any] = {"max_tokens": 3, "seed": 1, "correlation_id": "c"}
    return GenerationRequest(prompt=prompt, **(given | fields))


async def test_it_streams_and_counts(server: Running) -> None:
    """LO-WRK-156: the counts are the model's, which it was asked for."""
    expected = [Token(" w0"), Token(" w1"), Token(" w2"), Finished("length", 2, 3, None)]
    assert await items_of(server.client, request_of()) == expected
    items = await items_of(server.client, request_of("len=1 please"))
    assert items == [Token(" w0"), Finished("stop", 2, 1, None)]


async def test_no_token_at_all_is_an_end(server: Running) -> None:
    """LO-WRK-156: the body is empty."""
    items = await items_of(server.client, request_of("len=0"))
    assert items == [Finished("stop", 0, 0, None)]


async def test_a_stop_string_ends_it_and_is_no_text(server: Running) -> None:
    """LO-WRK-150."""
    items = await items_of(server.client, request_of(stop=("w1",), max_tokens=9))
    assert "".join(item.text for item in items if isinstance(item, Token)) == " w0 "
    assert items[-1] == Finished("stop_string", 2, 2, None)


async def test_an_error_first_and_an_error_later_are_failures(server: Running) -> None:
    """LO-WRK-162: the first one comes under 400, which says nothing of the request."""
    came, error = await failure_of(server.client, request_of("error"))
    assert (came, type(error)) == ([], EngineFailed)
    assert "the prompt asks for an error" in error.message
    came, error = await failure_of(server.client, request_of("error=2", max_tokens=9))
    assert (came, type(error)) == ([Token(" w0"), Token(" w1")], EngineFailed)


async def test_a_prompt_beyond_its_context_is_refused_as_such(server: Running) -> None:
    """LO-WRK-093."""
    came, error = await failure_of(server.client, request_of("long=600"))
    assert not came
    assert (type(error), error.code) == (EngineRefused, ErrorCode.CONTEXT_EXCEEDED)


async def test_what_the_model_does_not_read_is_refused(server: Running) -> None:
    """LO-WRK-157."""
    _, error = await failure_of(server.client, request_of(top_p=0.5))
    assert isinstance(error, EngineRefused)
    assert "`top_p`" in error.message


async def test_it_tells_what_it_is(server: Running) -> None:
    """LO-WRK-096, LO-WRK-159: its figures come from the metrics port."""
    seen, can = await server.client.observe(), await server.client.capabilities()
    assert seen.engine_version == "2.51.0"
    assert (seen.model_alias, seen.ctx, seen.slots_total) == ("tiny", 512, 2)
    assert seen.requests_waiting == 0
    assert can.trtllm_version is None
    expected = {Feature.CANCEL, Feature.TEMPERATURE, Feature.SEED, Feature.STOP}
    assert can.features == expected


async def test_who_waits_is_seen_at_the_metrics_port(server: Running) -> None:
    """LO-WRK-159: two are served at once, the third waits."""
    slow = request_of("delay=20", max_tokens=60)
    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(items_of(server.client, slow)) for _ in range(3)]
        with anyio.fail_after(DEADLINE_S):
            while (await server.client.observe()).requests_waiting != 1:  # noqa: ASYNC110 - it tells nobody
                await anyio.sleep(POLL_S)
    assert all(len(stream.result()) == 61 for stream in streams)


async def test_a_client_that_leaves_stops_the_model(server: Running) -> None:
    """LO-WRK-003: seen from the model's side, which notes how far it came."""
    request = request_of("delay=20", max_tokens=1000)
    async with aclosing(server.client.stream(request)) as stream:
        async for item in stream:
            if isinstance(item, Token):
                break
    with anyio.fail_after(DEADLINE_S):
        log = anyio.Path(server.log)
        while "CANCELED after" not in await log.read_text():  # noqa: ASYNC110 - a file
            await anyio.sleep(POLL_S)


async def test_a_model_that_dies_fails_its_request_and_comes_back(server: Running) -> None:
    """LO-WRK-162: Triton starts its process again."""
    _, error = await failure_of(server.client, request_of("die"))
    assert type(error) is EngineFailed
    with anyio.fail_after(DEADLINE_S):
        while True:
            try:
                await items_of(server.client, request_of())
                break
            except EngineFailed:
                await anyio.sleep(POLL_S)


async def test_a_model_that_is_gone_is_busy(server: Running) -> None:
    """LO-WRK-162."""
    url = f"http://127.0.0.1:{server.spec.port}/v2/repository/models/tiny"
    async with EngineTransport() as transport:
        assert (await transport.ask("POST", f"{url}/unload", headers={}, body=b"{}")).status == 200
        _, error = await failure_of(server.client, request_of())
        with pytest.raises(EngineBusy):
            await TritonClient(transport, url.partition("/v2")[0], None).observe()
        loaded = await transport.ask("POST", f"{url}/load", headers={}, body=b"{}", timeout_s=20)
    assert loaded.status == 200
    assert isinstance(error, EngineBusy)
    assert len(await items_of(server.client, request_of())) == 4


async def test_two_text_models_are_nobodys(tmp_path: Path) -> None:
    """LO-WRK-158."""
    await anyio.to_thread.run_sync(lambda: write_text_model(tmp_path / "models", "other"))
    write_text_model(tmp_path / "models", "tiny")
    async with started(tmp_path, "tiny", None, "--model-control-mode=none") as both:
        with pytest.raises(EngineProtocolError, match="other, tiny"):
            await until_observed(both)


async def test_a_poor_model_counts_by_its_pieces_and_finishes_what_runs(tmp_path: Path) -> None:
    """LO-WRK-156, LO-WRK-157: and SIGTERM ends no stream, but every new one."""
    async with serving(tmp_path, inputs=BARE, delay_ms=20) as poor:
        assert (await poor.client.capabilities()).features == {Feature.CANCEL}
        items = await items_of(poor.client, request_of())
        assert items[-1] == Finished("length", 0, 3, None)
        _, error = await failure_of(poor.client, request_of(temperature=0.0))
        assert isinstance(error, EngineRefused)
        async with aclosing(poor.client.stream(request_of(max_tokens=40))) as stream:
            first = await anext(stream)
            os.killpg(poor.process.pid, signal.SIGTERM)
            rest = [item async for item in stream]
        assert first == Token(" w0")
        assert rest[-1] == Finished("length", 0, 40, None)
        with pytest.raises(EngineError):
            await poor.client.observe()
        assert poor.process.wait(DEADLINE_S) == 0


async def test_a_server_that_is_killed_is_lost(tmp_path: Path) -> None:
    """LO-WRK-099."""
    async with serving(tmp_path, delay_ms=20) as killed:
        async with aclosing(killed.client.stream(request_of(max_tokens=400))) as stream:
            await anext(stream)
            os.killpg(killed.process.pid, signal.SIGKILL)
            with pytest.raises(EngineLost):
                async for _ in stream:
                    pass
        assert killed.ended() is FailureReason.CRASH
        _, error = await failure_of(killed.client, request_of())
        assert isinstance(error, EngineUnreachable)


@pytest.mark.parametrize("taken", [0, 2])
async def test_a_port_that_is_taken_is_told(tmp_path: Path, taken: int) -> None:
    """LO-WRK-161: that of HTTP, and that of the metrics."""
    write_text_model(tmp_path / "models", "tiny")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1] - taken
        async with started(tmp_path, "tiny", port) as ours:
            assert await anyio.to_thread.run_sync(ours.ended) is FailureReason.PORT_TAKEN


async def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    """LO-WRK-161."""
    write_text_model(tmp_path / "models", "tiny")
    async with started(tmp_path, "another") as ours:
        assert await anyio.to_thread.run_sync(ours.ended) is FailureReason.MODEL_MISSING
    async with started(tmp_path, "tiny", None, "--no-such-flag") as ours:
        assert await anyio.to_thread.run_sync(ours.ended) is FailureReason.BAD_ARGUMENT
