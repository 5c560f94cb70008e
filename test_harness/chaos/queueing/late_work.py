"""Q-5: work that would come too late is not done."""

from __future__ import annotations

import random
from pathlib import Path

from test_harness.chaos.queueing.engines import Served, engines, hold_the_slot, pool_of
from test_harness.chaos.queueing.posts import Post, accepted, post_all
from test_harness.chaos.queueing.runs import runs_of
from test_harness.task_client import assert_grammar

TOKEN_MS = 5
DEADLINES_MS = (50, 1_000)
REFUSED_DEADLINE_MS = 100
FIGURES_MS = 100
FOLLOWED = 60


def dead_on_arrival(root: Path, seed: int, full: bool) -> dict[str, float]:
    """Deadlines that pass in the queue, and one that could only pass."""
    count, late_ms = (500, 1_000) if full else (20, 5_000)
    chance = random.Random(seed)
    pool = pool_of(root, "--token-ms", str(TOKEN_MS))
    streams = {"metrics_interval_ms": FIGURES_MS}
    with engines(root, pool, queue={"capacity": count}, streams=streams) as it:
        blocker = hold_the_slot(it)
        deadlines = [chance.randint(*DEADLINES_MS) for _ in range(count)]
        ids = accepted(post_all(it.stack, [Post.of(chance, deadline_ms=ms) for ms in deadlines]))
        assert len(ids) == count
        # Their figures are being told while they expire.
        followed = [it.client.collecting(task_id) for task_id in ids[:FOLLOWED]]
        late = [_expired(it, *pair) for pair in zip(ids, deadlines, strict=True)]
        for task_id, stream in zip(ids, followed, strict=False):
            assert stream.result() == it.client.collect(task_id)
        it.client.cancel(blocker)
        # A task teaches the rate when its slot goes to the next one.
        for _ in range(2):
            assert it.client.collect(it.client.accept(max_tokens=20))[-1].name == "end"
        refused = _refuse_hopeless(it, chance)
        in_time = it.client.accept(max_tokens=4, deadline_ms=60_000)
        assert it.client.collect(in_time)[-1].name == "end"
        assert runs_of(it.stack, [*ids, refused]) == [], "none of them reached the engine"
    assert max(late) <= late_ms
    return {"expired in the queue": count, "told late by at most, ms": max(late)}


def _expired(it: Served, task_id: str, deadline_ms: int) -> float:
    """Its stream says so, alone; returns by how much it was told late, ms."""
    events = it.client.collect(task_id)
    assert_grammar(events)
    assert {event.name for event in events} <= {"metrics", "error"}
    assert events[-1].data["code"] == "DEADLINE_UNMET"
    assert events[-1].data["retriable"] is False
    seen = it.client.task(task_id)
    assert (seen["state"], seen["attempt"]) == ("failed", 0)
    late_ms: float = seen["finished_ms"] - seen["created_ms"] - deadline_ms
    assert late_ms >= -1, "not before its time; both are rounded"
    return late_ms


def _refuse_hopeless(it: Served, chance: random.Random) -> str:
    """A deadline that no error of prediction could save; returns the id it was posted with."""
    hopeless = Post.of(chance, max_tokens=100_000, deadline_ms=REFUSED_DEADLINE_MS)
    (answer,) = post_all(it.stack, [hopeless])
    assert (answer.status, answer.body["code"]) == (400, "DEADLINE_UNMET")
    assert answer.body["details"]["deadline_ms"] == REFUSED_DEADLINE_MS
    assert answer.body["details"]["predicted_ms"] > REFUSED_DEADLINE_MS
    assert it.client.get(f"/v1/tasks/{hopeless.task_id}").status_code == 404
    return hopeless.task_id
