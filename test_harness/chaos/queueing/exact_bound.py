"""Q-1: a flood finds exactly the room there is, and costs no memory beyond it."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

from test_harness.chaos.queueing.engines import alone, pool_of, rows
from test_harness.chaos.queueing.posts import Answer, Post, accepted, post_all
from test_harness.chaos.streams.watch import Watch

GROWTH_MIB = 64
LOOKED_AT = 20
"""Refused tasks of which it is asked whether they left anything."""


def exact_bound(root: Path, seed: int, full: bool) -> dict[str, float]:
    """Many more POSTs than the queue holds, all at once, while no replica is ready."""
    capacity, count, p99_ms = (1_000, 10_000, 1_000.0) if full else (50, 300, 5_000.0)
    chance = random.Random(seed)
    pool = pool_of(root, "--fault", "silent-start")
    with alone(root, pool, queue={"capacity": capacity}) as it:
        it.stack.start("pool_managerd")
        with Watch(it.stack) as watch:
            answers = post_all(it.stack, [Post.of(chance) for _ in range(count)])
        assert Counter(answer.status for answer in answers) == {
            202: capacity,
            429: count - capacity,
        }
        refused = [answer for answer in answers if answer.status == 429]
        for answer in refused:
            assert_told_when(answer)
        for answer in refused[:: max(1, len(refused) // LOOKED_AT)]:
            assert it.client.get(f"/v1/tasks/{answer.task_id}").status_code == 404
        places = sorted(a.body["queue_position"] for a in answers if a.status == 202)
        assert places == list(range(capacity)), "each has a place of its own"
        for task_id in accepted(answers)[:2]:
            assert it.client.cancel(task_id) == 204
        around = post_all(it.stack, [Post.of(chance) for _ in range(4)], connections=1)
        assert [answer.status for answer in around] == [202, 202, 429, 429]
        assert [a.body["queue_position"] for a in around[:2]] == [capacity - 2, capacity - 1]
        assert rows(it.stack, "SELECT count(*) FROM tasks")[0][0] == capacity + 2
        assert rows(it.stack, "SELECT count(*) FROM tasks WHERE attempt > 0")[0][0] == 0
    assert watch.growth_mib <= GROWTH_MIB
    assert watch.healthz_p99_ms <= p99_ms
    return {
        "posts": count,
        "accepted": capacity,
        "refused": len(refused),
        "growth, MiB": watch.growth_mib,
        "healthz p99, ms": watch.healthz_p99_ms,
    }


def assert_told_when(answer: Answer, policy: str = "reject") -> None:
    """A refusal for want of room says so, and when to come back, in every place the same."""
    assert answer.body["code"] == "QUEUE_FULL", answer.body
    assert answer.body["retriable"] is True
    assert answer.body["policy_label"] == policy
    backoff_ms = int(answer.headers["X-Backoff-Ms"])
    assert answer.body["retry_after_ms"] == backoff_ms
    assert int(answer.headers["Retry-After"]) == math.ceil(backoff_ms / 1000)
    assert answer.headers["X-Task-Id"] == answer.task_id
