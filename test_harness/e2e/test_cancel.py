"""Cancel: queued and decoding, and what the engine does then."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from test_harness.e2e.conftest import PoolFactory
from test_harness.ports import free_port
from test_harness.stack import child_environment, running_stack, wait_for
from test_harness.task_client import TaskClient, assert_grammar

pytestmark = pytest.mark.slow

KEY = "key-of-an-engine-somebody-else-runs"


@contextmanager
def external_engine(model: Path, log: Path) -> Iterator[httpx2.Client]:
    """A llama.cpp of our own, so that the test can look at its slots itself."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "worker_adapters.embedded", "--model", str(model)),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--ctx", "4096", "--slots", "1", "--alias", "tiny"),
            ],
            env=child_environment() | {"LLAMA_API_KEY": KEY},
            stdout=output,
            stderr=output,
        )
        try:
            with httpx2.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}
            ) as client:
                yield client
        finally:
            process.terminate()
            process.wait(10)


def busy_slots(engine: httpx2.Client) -> int:
    """How many slots the engine itself says are at work."""
    slots: list[dict[str, Any]] = engine.get("/slots").json()
    return sum(slot["is_processing"] for slot in slots)


def test_a_decoding_task_stops_and_its_slot_is_idle_within_a_second(
    tmp_path: Path, models: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-081, LO-ORC-082: no token after the 204, the engine's slot idle at most 1 s later."""
    key_file = tmp_path / "engine.key"
    key_file.touch(mode=0o600)
    key_file.write_text(KEY)
    with external_engine(models / "endless.gguf", tmp_path / "engine.log") as engine:
        external = {
            "mode": "external",
            "url": str(engine.base_url).rstrip("/"),
            "api_key_file": str(key_file),
        }
        pool = embedded_pool("endless", provisioning=external)
        with running_stack(tmp_path, [pool]) as stack:
            stack.wait_serving("chat")
            with TaskClient(stack) as client:
                task_id = client.accept(max_tokens=4000)
                events = []
                for event in client.follow(task_id):
                    events.append(event)
                    if event.name == "token" and event.data["i"] == 3:
                        assert busy_slots(engine) == 1
                        assert client.cancel(task_id) == 204
                        answered = time.monotonic()
                        written = client.task(task_id)["usage"]["tokens_out"]
                assert_grammar(events)
                assert events[-1].data["code"] == "CANCELED"
                assert sum(event.name == "token" for event in events) == written
                wait_for(lambda: busy_slots(engine) == 0, "the engine's slot is idle")
                assert time.monotonic() - answered < 1.0
                assert client.cancel(task_id) == 204, "cancel is idempotent"


def test_a_queued_task_never_reaches_the_engine(tmp_path: Path, embedded_pool: PoolFactory) -> None:
    """LO-ORC-083: its stream is one `error CANCELED`, and those behind it move up."""
    with running_stack(tmp_path, [embedded_pool("endless")]) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            running = client.accept(max_tokens=4000)
            next(iter(client.follow(running)))
            second, third = client.accept(), client.accept()
            assert client.task(third)["queue_position"] == 1
            assert client.cancel(second) == 204
            assert [event.data["code"] for event in client.collect(second)] == ["CANCELED"]
            assert client.task(third)["queue_position"] == 0
            assert client.cancel(running) == 204
            assert client.collect(third)[-1].name == "end"
            assert client.task(second)["attempt"] == 0


def test_an_unknown_task_cannot_be_canceled(tmp_path: Path) -> None:
    """LO-ORC-080: 404, and not the 204 of a task that ended."""
    with running_stack(tmp_path, []) as stack, TaskClient(stack) as client:
        assert client.cancel("00000000-0000-4000-8000-000000000000") == 404
