"""Engines, tasks and both daemons through kills, hangs and reloads: nothing accepted is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pool_managerd.procfs import session_members
from test_harness.stack import Stack, running_stack, wait_for
from test_harness.supervised import fake_command
from test_harness.task_client import TaskClient
from worker_adapters.tiny_gguf import write_model

pytestmark = pytest.mark.slow
POOL = "chat"
KILLS = 5


def a_pool(root: Path, *options: str, **changes: Any) -> dict[str, Any]:
    (root / "model").write_bytes(b"any file will do")
    return {
        "id": POOL,
        "engine": "llamacpp",
        "model": {"id": "m", "ref": f"file:{root / 'model'}"},
        "slots": 2,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "command", "command": fake_command(*options)},
        "restart": {"base_ms": 20},
    } | changes


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    pool = a_pool(tmp_path, "--token-ms", "20")
    sections = {"supervision": {"probation_ms": 200}, "timeouts": {"idle_token_ms": 2_000}}
    with running_stack(tmp_path, [pool], **sections) as stack:
        stack.wait_serving(POOL)
        yield stack


def has_state(client: TaskClient, task_id: str, *states: str) -> Callable[[], bool]:
    return lambda: client.task(task_id)["state"] in states


def slots_used(stack: Stack) -> int:
    with stack.client("pool_managerd") as client:
        pool = client.get("/v1/snapshot").json()["pools"][0]
    return sum(replica["slots_used"] for replica in pool["replicas"])


def change(stack: Stack, what: str, **body: Any) -> int:
    with stack.client() as client:
        return client.post(f"/v1/pools/{POOL}/{what}", json=body).status_code


def test_streams_and_engines_outlive_every_kill_of_the_manager(stack: Stack) -> None:
    """LO-POOL-150, LO-POOL-152, LO-POOL-054: none lost, none doubled, both slots taken again."""
    [pid] = stack.pids_of_replicas(POOL)
    with TaskClient(stack) as client:
        tasks = [client.accept(model="m", max_tokens=500) for _ in range(2)]
        for task in tasks:
            wait_for(has_state(client, task, "running"), "it runs")
        for _ in range(KILLS):
            stack.daemons["pool_managerd"].stop(signal.SIGKILL)
            assert stack.start("pool_managerd").wait_ready() < 30
            wait_for(lambda: slots_used(stack) == 2, "the leases are made again")
            assert stack.pids_of_replicas(POOL) == [pid]
        for task in tasks:
            wait_for(has_state(client, task, "succeeded", "failed"), "it ends")
            seen = client.task(task)
            assert (seen["state"], seen["attempt"]) == ("succeeded", 1), seen
            assert seen["usage"]["tokens_out"] == 500
    assert session_members(pid) == [pid]


def test_a_reload_loses_no_accepted_task(stack: Stack, tmp_path: Path) -> None:
    """LO-POOL-164: what runs finishes on the old model, what waits runs on one of the two."""
    (tmp_path / "other").write_bytes(b"another file")
    with TaskClient(stack) as client:
        tasks = [client.accept(model="m", max_tokens=60) for _ in range(6)]
        wait_for(has_state(client, tasks[0], "running"), "one runs")
        assert change(stack, "reload", new_model_ref=f"file:{tmp_path / 'other'}") == 202
        for task in tasks:
            wait_for(has_state(client, task, "succeeded", "failed"), "it ends")
            assert client.task(task)["state"] == "succeeded", client.task(task)
        health = client.get(f"/v1/pools/{POOL}/health").json()
        wait_for(
            lambda: client.get(f"/v1/pools/{POOL}/health").json()["reload"]["state"] == "succeeded",
            "the reload is over",
        )
        assert health["ready"]


def test_a_pool_that_drains_refuses_tasks_cuts_the_running_and_keeps_the_waiting(
    stack: Stack,
) -> None:
    """LO-POOL-160, LO-POOL-162: and on resume what waited runs."""
    with TaskClient(stack) as client:
        running = [client.accept(model="m", max_tokens=2_000) for _ in range(2)]
        waiting = client.accept(model="m", max_tokens=3)
        for task in running:
            wait_for(has_state(client, task, "running"), "it runs")
        assert change(stack, "drain", deadline_ms=500) == 202
        refused = client.post(model="m")
        assert (refused.status_code, refused.json()["code"]) == (503, "POOL_DRAINING")
        for task in running:
            wait_for(has_state(client, task, "failed"), "it is cut")
            error = client.task(task)["error"]
            assert (error["code"], error["retriable"]) == ("POOL_DRAINING", True)
        assert client.task(waiting)["state"] == "queued"
        assert change(stack, "resume") == 202
        wait_for(has_state(client, waiting, "succeeded"), "it runs")


def test_an_engine_that_a_task_hung_on_proves_itself_before_it_gets_more(stack: Stack) -> None:
    """LO-POOL-158: one stream hangs for ever, and the engine serves others."""
    with TaskClient(stack) as client:
        hung = client.accept(model="m", prompt="fault=hang-after-3", max_tokens=9)
        wait_for(has_state(client, hung, "failed"), "its clock runs out")
        assert client.task(hung)["error"]["code"] == "DECODE_TIMEOUT"
        log = stack.daemons["pool_managerd"]

        def suspected() -> bool:
            health = client.get(f"/v1/pools/{POOL}/health").json()
            error = health["last_error"]
            return error is not None and error["reason"] == "NOT_PROGRESSING"

        wait_for(suspected, "its replica is under suspicion")
        stack.wait_serving(POOL)
        assert client.get(f"/v1/pools/{POOL}/health").json()["restarts"] == 0, log.logged()
        done = client.accept(model="m", max_tokens=3)
        wait_for(has_state(client, done, "succeeded"), "it serves again")


def test_real_llama_cpp_is_taken_back_in_the_midst_of_a_stream(tmp_path: Path) -> None:
    """LO-POOL-150, LO-POOL-152: on the embedded engine, whose text is the same as without."""
    write_model(tmp_path / "endless.gguf", "endless")
    pool = {
        "id": POOL,
        "engine": "llamacpp",
        "model": {"id": "m", "ref": f"file:{tmp_path / 'endless.gguf'}"},
        "ctx": 512,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "embedded"},
    }
    with running_stack(tmp_path, [pool]) as stack, TaskClient(stack) as client:
        stack.wait_serving(POOL)
        [pid] = stack.pids_of_replicas(POOL)
        whole = client.accept(model="m", max_tokens=100, seed=5)
        wait_for(has_state(client, whole, "succeeded"), "it runs undisturbed")
        task = client.accept(model="m", max_tokens=100, seed=5)
        wait_for(has_state(client, task, "running"), "it runs")
        stack.daemons["pool_managerd"].stop(signal.SIGKILL)
        stack.start("pool_managerd").wait_ready()
        stack.wait_serving(POOL)
        assert stack.pids_of_replicas(POOL) == [pid]
        wait_for(has_state(client, task, "succeeded", "failed"), "it ends")
        seen = client.task(task)
        assert (seen["state"], seen["attempt"]) == ("succeeded", 1), seen
        assert seen["text"] == client.task(whole)["text"]
