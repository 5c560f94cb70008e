"""Q-12: a full queue under `drop-lru` drops its oldest batch task, and nothing else."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from test_harness.chaos.queueing.engines import Served, engines, hold_the_slot, pool_of, rows
from test_harness.chaos.queueing.exact_bound import assert_told_when
from test_harness.chaos.queueing.posts import Post, accepted, any_id, post_all
from test_harness.chaos.queueing.runs import runs_of
from test_harness.chaos.waits import until
from test_harness.task_client import assert_grammar

DROPPED_S = 20.0
_IN_ORDER = (
    "SELECT task_id, priority, state, error_code, held_tokens FROM tasks"
    " WHERE session_id = ? ORDER BY sequence"
)


def drop_lru(root: Path, seed: int, full: bool) -> dict[str, float]:
    """A queue filled with batch work, one task more, then a flood of both classes at once."""
    capacity, count = (200, 2_000) if full else (20, 100)
    chance = random.Random(seed)
    queue = {"capacity": capacity, "policy": "drop-lru"}
    with engines(root, pool_of(root, "--token-ms", "2"), queue=queue) as it:
        session = _session(it, chance)
        running = hold_the_slot(it, priority="batch")
        filling = [_post(chance, session, "batch") for _ in range(capacity)]
        ids = accepted(post_all(it.stack, filling, connections=1))
        assert len(ids) == capacity
        ids += accepted(post_all(it.stack, [_post(chance, session, "interactive")]))
        _assert_oldest_batch_dropped(it, session, 1)
        assert it.client.task(ids[0])["state"] == "failed"
        classes = ["interactive"] * (capacity // 2) + ["batch"] * (count - capacity // 2)
        chance.shuffle(classes)
        posts = [_post(chance, session, name) for name in classes]
        # What is on its way takes places too: so few at once always find one.
        ids += accepted(post_all(it.stack, posts[: count // 2], connections=capacity // 4))
        assert len(ids) == capacity + 1 + count // 2
        _assert_oldest_batch_dropped(it, session, len(ids) - capacity)
        answers = post_all(it.stack, posts[count // 2 :])
        refused = [answer for answer in answers if answer.status == 429]
        for answer in refused:
            assert_told_when(answer, "drop-lru")
        ids += accepted(answers)
        assert len(refused) + len(accepted(answers)) == count - count // 2
        dropped = len(ids) - capacity
        _assert_oldest_batch_dropped(it, session, dropped)
        assert it.client.task(running)["state"] == "running"
        it.client.cancel(running)
        _assert_all_over(it, session, ids)
    return {
        "posts": capacity + 1 + count,
        "accepted": len(ids),
        "dropped": dropped,
        "refused": len(refused),
        "served": capacity,
    }


def _session(it: Served, chance: random.Random) -> str:
    """One that can pay for everything."""
    session, settings = any_id(chance), {"budget_tokens": 10**9, "max_turns": 10**6}
    with it.stack.client() as client:
        assert client.put(f"/v1/sessions/{session}", json=settings).status_code == 200
    return session


def _post(chance: random.Random, session: str, priority: str) -> Post:
    return Post.of(chance, session_id=session, priority=priority)


def _wait_dropped(it: Served, session: str, count: int) -> None:
    """Wait until so many have ended; there will be no more of them."""

    def dropped() -> bool:
        states = Counter(row["state"] for row in rows(it.stack, _IN_ORDER, [session]))
        return states["failed"] >= count

    until(dropped, DROPPED_S, f"{count} tasks are dropped")


def _assert_oldest_batch_dropped(it: Served, session: str, count: int) -> None:
    """Those of the batch class that were accepted first, in number exactly what was too much."""
    _wait_dropped(it, session, count)
    told = rows(it.stack, _IN_ORDER, [session])
    batch = [row["task_id"] for row in told if row["priority"] == "batch"]
    _assert_dropped(it, session, batch[:count])


def _assert_dropped(it: Served, session: str, expected: list[str]) -> None:
    """These were dropped, in their streams too, and none other; what they held is given back."""
    told = rows(it.stack, _IN_ORDER, [session])
    assert {row["task_id"] for row in told if row["state"] != "queued"} == set(expected)
    for task_id in expected:
        events = it.client.collect(task_id)
        assert_grammar(events)
        assert {event.name for event in events} <= {"metrics", "error"}
        assert events[-1].data["code"] == "QUEUE_FULL_DROP_LRU"
        assert events[-1].data["retriable"] is True
    assert runs_of(it.stack, expected) == []
    held = sum(row["held_tokens"] for row in told if row["state"] == "queued")
    tokens = it.client.get(f"/v1/sessions/{session}").json()["budgets"]["tokens"]
    assert (tokens["reserved"], tokens["spent"]) == (held, 0)


def _assert_all_over(it: Served, session: str, ids: list[str]) -> None:
    """What was not dropped runs, interactive tasks first; nothing is held in the end."""
    ends = Counter(it.client.collect(task_id)[-1].data.get("code", "end") for task_id in ids)
    waited = [row for row in rows(it.stack, _IN_ORDER, [session]) if row["error_code"] is None]
    assert ends == {"end": len(waited), "QUEUE_FULL_DROP_LRU": len(ids) - len(waited)}
    in_order = sorted(waited, key=lambda row: row["priority"] == "batch")
    ran = [run.task_id for run in runs_of(it.stack, ids)]
    assert ran == [row["task_id"] for row in in_order]
    session_now = it.client.get(f"/v1/sessions/{session}").json()
    assert session_now["budgets"]["tokens"]["reserved"] == 0
