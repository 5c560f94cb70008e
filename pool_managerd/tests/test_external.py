"""External replicas: observed, never started, never stopped."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from contracts.pools import FailureReason, ReplicaState
from test_harness.supervised import SupervisorHarness
from worker_adapters.openai import OpenAiClient
from worker_adapters.tests.test_vllm_client import Answers, answering

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
S = ReplicaState


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's llama.cpp."""
    argv = [sys.executable, "-m", "test_harness.fake_engines.llamacpp", "--port", str(port)]
    with subprocess.Popen([*argv, "--slots", "2", *options]) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_server_is_found_when_it_comes_and_missed_when_it_goes(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-033."""
    monkeypatch.setattr("pool_managerd.watching.OBSERVE_S", 0.1)
    monkeypatch.setattr("pool_managerd.watching.OBSERVE_MIN_S", 0.1)
    port = free_port()
    pool = harness.pool(provisioning={"mode": "external", "url": f"http://127.0.0.1:{port}"})
    async with harness.supervise(pool) as it:
        await it.until(lambda replica: replica.last_error is not None)
        assert it.replica.last_error is not None
        assert it.replica.last_error.reason is FailureReason.UNREACHABLE
        with server(port):
            await it.until_state(S.READY)
            assert it.replica.slots_open == 2
            assert (it.replica.pid, it.replica.model_digest) == (None, None)
        await it.until_state(S.UNHEALTHY)
        assert it.replica.slots_open == 0
        await it.until_state(S.BACKOFF)
        with server(port):
            await it.until_state(S.READY)


async def test_a_stop_leaves_an_external_server_running(harness: SupervisorHarness) -> None:
    """LO-POOL-033."""
    port = free_port()
    with server(port) as process:
        pool = harness.pool(provisioning={"mode": "external", "url": f"http://127.0.0.1:{port}"})
        async with harness.supervise(pool) as it:
            await it.until_state(S.READY)
        assert it.replica.state is S.STOPPED
        assert process.poll() is None


async def test_the_key_of_an_external_server_comes_from_its_file(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-186."""
    port = free_port()
    key_file = harness.root / "key"
    key_file.write_text("sekret")
    key_file.chmod(0o600)
    where = {"mode": "external", "url": f"http://127.0.0.1:{port}"}
    with server(port, "--api-key", "sekret"):
        async with harness.supervise(harness.pool(provisioning=where)) as it:
            with anyio.fail_after(15):
                await it.until(
                    lambda replica: (
                        replica.last_error is not None
                        and replica.last_error.reason is FailureReason.IDENTITY_MISMATCH
                    )
                )
            assert it.replica.last_error is not None
            assert "file's path into provisioning.api_key_file" in it.replica.last_error.message
        wrong_file = harness.root / "another key"
        wrong_file.write_text("wrong")
        wrong_file.chmod(0o600)
        wrong = where | {"api_key_file": str(wrong_file)}
        async with harness.supervise(harness.pool(provisioning=wrong)) as it:
            with anyio.fail_after(15):
                await it.until(lambda replica: replica.last_error is not None)
            assert it.replica.last_error is not None
            assert "not the one in the file that" in it.replica.last_error.message
        keyed = where | {"api_key_file": str(key_file)}
        async with harness.supervise(harness.pool(provisioning=keyed)) as it:
            await it.until_state(S.READY)


async def test_a_key_file_that_others_can_read_is_refused(harness: SupervisorHarness) -> None:
    key_file = harness.root / "key"
    key_file.write_text("sekret")
    key_file.chmod(0o644)
    where = {
        "mode": "external",
        "url": f"http://127.0.0.1:{free_port()}",
        "api_key_file": str(key_file),
    }
    async with harness.supervise(harness.pool(provisioning=where)) as it:
        await it.until_state(S.FAILED)
        assert it.replica.last_error is not None
        assert "provisioning.api_key_file" in it.replica.last_error.message


async def test_a_server_of_several_models_is_asked_for_the_one_of_the_pool(
    harness: SupervisorHarness,
) -> None:
    """LO-WRK-169."""
    listed: Answers = {"/v1/models": (200, {"data": [{"id": "a"}, {"id": "b"}]})}
    async with answering(listed) as url:
        where = {"mode": "external", "url": url}
        pool = harness.pool(
            engine="openai", provisioning=where, model={"id": "c", "ref": "file:/m"}
        )
        async with harness.supervise(pool) as it:
            await it.until(lambda replica: replica.last_error is not None)
            assert it.replica.last_error is not None
            assert "none is named c: set model.id to one of a, b" in it.replica.last_error.message


async def test_a_command_is_asked_for_the_model_of_its_pool_too(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-WRK-169."""
    asked: list[str] = []
    monkeypatch.setattr(OpenAiClient, "ask_for", lambda _, model_id: asked.append(model_id))
    argv = [sys.executable, "-m", "test_harness.fake_engines.openai", "--port", "{port}"]
    where = {"mode": "command", "command": [*argv, "--api-key", "{api_key}"]}
    async with harness.supervise(harness.pool(engine="openai", provisioning=where)) as it:
        await it.until_state(S.READY)
    assert asked == ["m"]
