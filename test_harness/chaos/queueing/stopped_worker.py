"""Q-6: an engine that stands still ends its task once, and goes on with the next."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from test_harness.chaos.queueing.engines import (
    Served,
    engines,
    pool_of,
    replicas,
    wait_given_back,
)
from test_harness.chaos.queueing.posts import Post, accepted, post_all
from test_harness.chaos.queueing.runs import runs_of
from test_harness.chaos.rig import POOL
from test_harness.task_client import Event, assert_grammar, text_of

TOKENS_BEFORE = 5
LATE_S = 1.0
"""In which a token that was held back would come."""


def stopped_worker(root: Path, seed: int, full: bool) -> dict[str, float]:
    """SIGSTOP in the middle of a stream, for longer than tokens or a lease are waited for."""
    idle_ms, stopped_s, margin_s = (5_000, 40.0, 1.0) if full else (500, 2.0, 5.0)
    chance = random.Random(seed)
    timeouts = {"idle_token_ms": idle_ms, "drain_ms": 0}
    with engines(root, pool_of(root, "--token-ms", "20"), timeouts=timeouts) as it:
        (pid,) = it.stack.pids_of_replicas(POOL)
        (task_id,) = accepted(post_all(it.stack, [Post.of(chance, max_tokens=100_000)]))
        stopped_at, events = _stop_in_the_middle(it, task_id, pid)
        timed_out_s = time.monotonic() - stopped_at
        (following,) = accepted(post_all(it.stack, [Post.of(chance, max_tokens=4)]))
        time.sleep(max(0.0, stopped_s - timed_out_s))
        os.kill(pid, signal.SIGCONT)
        assert it.client.collect(following)[-1].name == "end"
        time.sleep(LATE_S)
        assert it.client.collect(task_id) == events, "no token came late"
        seen = it.client.task(task_id)
        assert (seen["state"], seen["attempt"]) == ("failed", 1)
        assert seen["text"] == text_of(events)
        assert [run.task_id for run in runs_of(it.stack, [task_id, following])] == [
            task_id,
            following,
        ]
        wait_given_back(it.stack)
        (replica,) = replicas(it.stack)
        assert (replica["pid"], replica["restarts"]) == (pid, 0), "the very process, not another"
    assert idle_ms / 1000 - 0.2 <= timed_out_s <= idle_ms / 1000 + margin_s
    return {"stopped for, s": stopped_s, "timed out after, s": timed_out_s}


def _stop_in_the_middle(it: Served, task_id: str, pid: int) -> tuple[float, list[Event]]:
    """Stop the engine after some tokens; when, and the whole stream."""
    events: list[Event] = []
    stopped_at = 0.0
    for event in it.client.follow(task_id):
        events.append(event)
        if event.name == "token" and event.data["i"] == TOKENS_BEFORE:
            os.kill(pid, signal.SIGSTOP)
            stopped_at = time.monotonic()
    assert stopped_at
    assert_grammar(events)
    assert events[-1].data["code"] == "DECODE_TIMEOUT"
    assert events[-1].data["retriable"] is True
    return stopped_at, events
