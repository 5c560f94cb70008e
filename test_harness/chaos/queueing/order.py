"""Q-2: who waits starts in the order promised: by class, by arrival, and no class for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from test_harness.chaos.queueing.engines import Served, alone, engines, hold_the_slot, pool_of
from test_harness.chaos.queueing.posts import Post, accepted, post_all
from test_harness.chaos.queueing.runs import runs_of
from test_harness.chaos.rig import POOL

INTERACTIVE, BATCH = "interactive", "batch"


def order(root: Path, seed: int, full: bool) -> dict[str, float]:
    """Both classes posted in a mixture before any engine runs, then served one by one."""
    batch, interactive = (200, 20) if full else (20, 6)
    chance = random.Random(seed)
    classes = [BATCH] * batch + [INTERACTIVE] * interactive
    chance.shuffle(classes)
    with alone(root, pool_of(root)) as it:
        ids = _line_up(it, chance, classes)
        it.stack.start("pool_managerd")
        it.stack.wait_serving(POOL)
        started = _started(it, ids)
    by_class = zip(ids, classes, strict=True)
    assert started == [task for task, _ in sorted(by_class, key=lambda pair: pair[1] == BATCH)]
    assert classes.index(BATCH) < classes.index(INTERACTIVE) + interactive, "a mixture"
    return {"batch": batch, "interactive": interactive, "out of order": 0}


def starvation_bound(root: Path, seed: int, full: bool) -> dict[str, float]:
    """A batch task goes before interactive ones once it has waited for the bound."""
    count, bound_ms = (50, 20_000) if full else (3, 2_000)
    chance = random.Random(seed)
    queue = {"batch_max_wait_ms": bound_ms}
    with engines(root, pool_of(root), queue=queue) as it:
        blocker = hold_the_slot(it)
        old = _line_up(it, chance, [BATCH] * count)
        time.sleep(bound_ms / 1000 + 0.1)
        began = time.monotonic()
        others = _line_up(it, chance, [BATCH, INTERACTIVE] * count)
        young, interactive = others[::2], others[1::2]
        it.client.cancel(blocker)
        started = _started(it, old + others)
        took_ms = (time.monotonic() - began) * 1000
    assert started == old + interactive + young
    return {"of each kind": count, "bound, ms": bound_ms, "served within, ms": took_ms}


def _line_up(it: Served, chance: random.Random, classes: Sequence[str]) -> list[str]:
    """Post one after another; all are accepted."""
    posts = [Post.of(chance, priority=name) for name in classes]
    ids = accepted(post_all(it.stack, posts, connections=1))
    assert len(ids) == len(posts)
    return ids


def _started(it: Served, ids: Sequence[str]) -> list[str]:
    """The tasks in the order in which the engine took them; each ran once, to its end."""
    for task_id in ids:
        assert it.client.collect(task_id)[-1].name == "end"
    return [run.task_id for run in runs_of(it.stack, ids)]
