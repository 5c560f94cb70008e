"""What a stand-in engine notes of its requests, and of its own end."""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from test_harness.fake_engines.tests.conftest import Serving, request_of
from test_harness.ports import free_port
from worker_adapters.base import Token
from worker_adapters.errors import EngineLost, EngineUnreachable
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.transport import EngineTransport

pytestmark = pytest.mark.anyio


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_request_is_noted_when_it_comes_and_when_it_is_over(
    serving: Serving, tmp_path: Path
) -> None:
    path, began = tmp_path / "attempts", time.time()
    async with serving("--attempts-log", str(path), "--slots", "2") as asked:
        await asked.items("The river", correlation_id="one", slot=1)
        await asked.items("The river", correlation_id="two")
    rows = rows_of(path)
    assert [(row["event"], row["correlation_id"], row["slot"], row["sent"]) for row in rows] == [
        ("begin", "one", 1, 0),
        ("end", "one", 1, 5),
        ("begin", "two", None, 0),
        ("end", "two", 1, 5),
    ]
    assert began < rows[0]["at"] <= rows[1]["at"] < time.time()


async def test_a_request_whose_client_left_is_over_too(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "attempts"
    async with serving("--attempts-log", str(path), "--token-ms", "1") as asked:
        async with aclosing(asked.client.stream(request_of("x", max_tokens=10_000))) as stream:
            while not isinstance(await anext(stream), Token):
                pass
        with anyio.fail_after(5):
            while len(rows_of(path)) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.01)
    assert 0 < rows_of(path)[1]["sent"] < 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "prompt", "exit_code"),
    [
        ("poison", "a POISON apple", 3),
        ("die-after-2", "The river", 3),
        ("crash-after-2", "The river", -signal.SIGSEGV),
    ],
)
async def test_a_request_that_kills_the_engine_is_noted_as_begun(
    tmp_path: Path, fault: str, prompt: str, exit_code: int
) -> None:
    path, port = tmp_path / "attempts", free_port()
    argv = [sys.executable, "-m", "test_harness.fake_engines.llamacpp", "--port", str(port)]
    argv += ["--fault", fault, "--attempts-log", str(path)]
    process = await anyio.open_process(argv)
    try:
        async with EngineTransport() as transport:
            client = LlamaCppClient(transport, f"http://127.0.0.1:{port}", None)
            await _generate_once(client, "a canary", tokens=1)
            with pytest.raises(EngineLost):
                await _generate_once(client, prompt, tokens=9)
        with anyio.fail_after(5):
            assert await process.wait() == exit_code
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.aclose()
    rows = rows_of(path)
    assert [row["event"] for row in rows] == ["begin", "end", "begin"]
    assert {row["pid"] for row in rows} == {process.pid}


@pytest.mark.slow
async def test_an_unknown_fault_starts_no_engine() -> None:
    argv = [sys.executable, "-m", "test_harness.fake_engines.llamacpp", "--port", "1"]
    ended = await anyio.run_process([*argv, "--fault", "ignore-trem"], check=False)
    assert ended.returncode == 2
    assert b"there is no fault `ignore-trem`" in ended.stderr


async def _generate_once(client: LlamaCppClient, prompt: str, *, tokens: int) -> None:
    """So many tokens, as soon as the engine is there."""
    with anyio.fail_after(10):
        while True:
            with suppress(EngineUnreachable):
                async with aclosing(client.stream(request_of(prompt, max_tokens=tokens))) as stream:
                    async for _ in stream:
                        pass
                return
            await anyio.sleep(0.05)
