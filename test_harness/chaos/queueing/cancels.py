"""Q-4: after the 204 of a cancel nothing comes any more, and the slot is free."""

from __future__ import annotations

import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from test_harness.chaos.queueing.engines import Served, engines, pool_of, wait_given_back
from test_harness.chaos.queueing.posts import Post, post_all
from test_harness.chaos.queueing.runs import runs_of
from test_harness.chaos.waits import until
from test_harness.task_client import Event, assert_grammar, text_of

SLOTS = 4
WITHIN_S = 0.05
"""Of its acceptance by a pool with a free slot."""


@dataclass(frozen=True)
class Cut:
    """One task that was canceled; `at` in Unix seconds, when its 204 was here."""

    task_id: str
    at: float
    events: list[Event]


def cancels(root: Path, seed: int, full: bool) -> dict[str, float]:
    """Tasks canceled just after their dispatch, several at a time."""
    count, idle_s = (1_000, 1.0) if full else (40, 10.0)
    chance = random.Random(seed)
    pauses = [chance.uniform(0, WITHIN_S) for _ in range(count)]
    posts = [Post.of(chance, max_tokens=100_000) for _ in range(count)]
    with engines(root, pool_of(root, "--token-ms", "5", slots=SLOTS)) as it:
        with ThreadPoolExecutor(SLOTS) as threads:
            cuts = list(threads.map(partial(_cut, it), posts, pauses))
        idle = _idle_after(it, cuts, idle_s)
        for cut in cuts:
            assert it.client.collect(cut.task_id) == cut.events, "nothing came since"
            assert it.client.task(cut.task_id)["text"] == text_of(cut.events)
        wait_given_back(it.stack)
        assert it.client.collect(it.client.accept(max_tokens=4))[-1].name == "end"
    spoke = sum(any(event.name == "token" for event in cut.events) for cut in cuts)
    assert spoke >= count / 4, "tasks were canceled in the middle of their text"
    assert max(idle) <= idle_s
    return {
        "cancels": count,
        "canceled after a token": spoke,
        "ran when canceled": len(idle),
        "slot idle after at most, s": max(idle),
    }


def _cut(it: Served, post: Post, pause: float) -> Cut:
    """Post, follow, cancel after a pause; both streams, of before and after, say the same."""
    (answer,) = post_all(it.stack, [post])
    assert answer.status == 202
    followed = it.client.collecting(post.task_id)
    time.sleep(pause)
    assert it.client.cancel(post.task_id) == 204
    at = time.time()
    events = it.client.collect(post.task_id)
    assert_grammar(events)
    assert events[-1].data["code"] == "CANCELED"
    assert it.client.cancel(post.task_id) == 204
    assert followed.result() == events
    return Cut(post.task_id, at, events)


def _idle_after(it: Served, cuts: list[Cut], idle_s: float) -> list[float]:
    """How long after its 204 the engine was rid of each task that it had; at least 0."""
    canceled_at = {cut.task_id: cut.at for cut in cuts}

    def rid() -> bool:
        return all(math.isfinite(run.ended) for run in runs_of(it.stack, canceled_at))

    until(rid, idle_s, "the engine is rid of every canceled task")
    ran = runs_of(it.stack, canceled_at)
    return [max(0.0, run.ended - canceled_at[run.task_id]) for run in ran]
