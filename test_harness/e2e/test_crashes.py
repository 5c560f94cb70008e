"""What a client sees when something dies, and that the system is whole again after."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from test_harness.e2e.conftest import PoolFactory
from test_harness.stack import Stack, running_stack, wait_for
from test_harness.task_client import TaskClient, assert_grammar, text_of

pytestmark = pytest.mark.slow

LONG_PROMPT = "The river " * 250
"""Seconds of prefill on the slow model: time to die before a first token."""


def kill_replica(stack: Stack) -> int:
    """SIGKILL the only replica's process; returns its pid."""
    pid = stack.pids_of_replicas("chat")[0]
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_for_another_replica(stack: Stack, dead: int) -> None:
    """Wait until a process other than `dead` serves."""
    wait_for(lambda: stack.pids_of_replicas("chat")[0] not in (None, dead), "a new process")
    stack.wait_serving("chat")


def test_a_replica_that_dies_mid_stream_resets_the_task_and_comes_back(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-043: tokens were read, so the task ends `error WORKER_RESET`; the pool heals."""
    with running_stack(tmp_path, [embedded_pool("endless")]) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            task_id = client.accept(max_tokens=4000)
            events = []
            for event in client.follow(task_id):
                events.append(event)
                if event.name == "token" and event.data["i"] == 3:
                    dead = kill_replica(stack)
            assert_grammar(events)
            assert events[-1].data["code"] == "WORKER_RESET"
            assert events[-1].data["retriable"] is True
            seen = client.task(task_id)
            assert (seen["state"], seen["text"]) == ("failed", text_of(events))
            wait_for_another_replica(stack, dead)
            assert client.collect(client.accept(max_tokens=4))[-1].name == "end"
            health = client.get("/v1/pools/chat/health").json()
            assert health["restarts"] == 1
            assert health["last_error"]["reason"] == "CRASH"


def test_a_replica_that_dies_before_a_token_costs_only_time(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-042: nobody read a token, so the task runs again and ends well."""
    with running_stack(tmp_path, [embedded_pool("endless")]) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            task_id = client.accept(prompt=LONG_PROMPT, max_tokens=4)
            events = []
            for event in client.follow(task_id):
                events.append(event)
                if event.name == "started" and event.data["attempt"] == 1:
                    kill_replica(stack)
            assert_grammar(events)
            attempts = [e.data["attempt"] for e in events if e.name == "started"]
            assert len(attempts) >= 2, events
            assert attempts == sorted(attempts)
            assert events[-1].name == "end"
            assert client.task(task_id)["attempt"] == attempts[-1]


def test_orchestratord_killed_loses_no_queued_task(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-092, LO-ORC-093: every 202 reaches one end, in order, and none runs twice."""
    with running_stack(tmp_path, [embedded_pool("endless")]) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            running = client.accept(max_tokens=4000)
            for event in client.follow(running):
                if event.name == "token":
                    break
            queued = [client.accept(max_tokens=2, seed=seed) for seed in range(20)]
            stack.daemons["orchestratord"].stop(signal.SIGKILL)
        stack.start("orchestratord").wait_ready()
        with TaskClient(stack) as client:
            interrupted = client.collect(running)
            assert [event.data["code"] for event in interrupted] == ["INTERRUPTED"]
            assert client.task(running)["state"] == "failed"
            ends = [client.collect(task_id) for task_id in queued]
            for events in ends:
                assert_grammar(events)
                assert events[-1].name == "end"
            started = [client.task(task_id)["started_ms"] for task_id in queued]
            assert started == sorted(started)
            assert all(client.task(task_id)["attempt"] == 1 for task_id in queued)


def test_pool_managerd_killed_leaves_a_running_stream_alone(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-047, LO-SYS-002: it is not on the token path; what is queued waits for its return."""
    with running_stack(tmp_path, [embedded_pool("endless")]) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            running = client.accept(max_tokens=40)
            stream = client.follow(running)
            events = [next(stream), next(stream)]
            stack.daemons["pool_managerd"].stop(signal.SIGKILL)
            queued = client.accept(max_tokens=2)
            events += stream
            assert events[-1].name == "end"
            assert client.task(queued)["state"] == "queued"
            stack.start("pool_managerd")
            assert client.collect(queued)[-1].name == "end"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_of_orchestratord_ends_every_stream(
    tmp_path: Path, embedded_pool: PoolFactory, number: signal.Signals
) -> None:
    """LO-SYS-024: each open stream gets a terminal event, the daemon exits 0, nothing is lost."""
    timeouts = {"drain_ms": 300}
    with running_stack(tmp_path, [embedded_pool("endless")], timeouts=timeouts) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            running = client.accept(max_tokens=4000)
            queued = [client.accept(max_tokens=2) for _ in range(10)]
            streams = [client.collecting(task_id) for task_id in (running, *queued)]
            for event in client.follow(running):
                if event.name == "token":
                    break
            assert stack.daemons["orchestratord"].stop(number) == 0
            first, *rest = [future.result(30) for future in streams]
            assert_grammar(first)
            assert first[-1].data["code"] == "SHUTTING_DOWN"
            for events in rest:
                told = [event for event in events if event.name != "metrics"]
                assert [(e.id, e.name) for e in told] == [(None, "error")]
                assert told[0].data["code"] == "SHUTTING_DOWN"
        assert not (stack.state_dir / "run" / "orchestratord.json").exists()
        stack.start("orchestratord").wait_ready()
        with TaskClient(stack) as client:
            assert all(client.collect(task_id)[-1].name == "end" for task_id in queued)


def test_a_clean_stop_of_pool_managerd_ends_its_streams_and_replicas(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-POOL-012: exit 0, no process left, and the stream it fed ends with a terminal event."""
    with running_stack(tmp_path, [embedded_pool("endless")]) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client, stack.client("pool_managerd") as pools:
            replica = stack.pids_of_replicas("chat")[0]
            running = client.accept(max_tokens=4000)
            stream = client.follow(running)
            events = [next(stream), next(stream)]
            with pools.stream("GET", "/v1/watch") as watch:
                assert stack.daemons["pool_managerd"].stop() == 0
                watched = b"".join(watch.iter_raw())
            assert watched.endswith(b"\r\n\r\n"), "the watch ends with a whole event"
            events += stream
            assert_grammar(events)
            assert events[-1].data["code"] == "WORKER_RESET"
            with pytest.raises(ProcessLookupError):
                os.kill(replica, 0)
