"""Q-8: a prompt that kills its engine is given up, and all others are served."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from test_harness.chaos.queueing.engines import Served, engines, pool_of
from test_harness.chaos.queueing.posts import Post, accepted, post_all
from test_harness.chaos.queueing.runs import runs_of
from test_harness.chaos.rig import POOL
from test_harness.chaos.waits import until
from test_harness.task_client import assert_grammar

RUNS_MAX = 3
ENDED_S = 120.0
WINDOW_MS = 600_000
OPEN_MS = 2_000
"""An open breaker stays so for so long."""
SEEN_S = 0.5
"""In which the last death would show."""


def poison(root: Path, seed: int, full: bool) -> dict[str, float]:
    """Poisonous tasks among others; each counts once towards the breaker, which stays closed."""
    poisons, others = (10, 100) if full else (1, 6)
    chance = random.Random(seed)
    deaths = max(3, poisons + 1)
    restart = {"base_ms": 20, "cap_ms": OPEN_MS, "intensity": deaths, "window_ms": WINDOW_MS}
    with engines(root, pool_of(root, "--fault", "poison", restart=restart)) as it:
        posts = [Post.of(chance, prompt="a POISON of ours") for _ in range(poisons)]
        posts += [Post.of(chance) for _ in range(others)]
        bad = {post.task_id for post in posts[:poisons]}
        chance.shuffle(posts)
        ids = accepted(post_all(it.stack, posts, connections=1))
        assert len(ids) == len(posts)
        probes = _post_until_ended(it, chance, sorted(bad))
        _assert_stays_closed(it)
        for task_id in bad:
            _assert_given_up(it, task_id)
        for task_id in [*(set(ids) - bad), *probes]:
            assert it.client.collect(task_id)[-1].name == "end"
        assert _health(it)["restarts"] == RUNS_MAX * poisons
        assert RUNS_MAX * poisons >= deaths, "counted one by one they would have opened it"
    return {"poisonous": poisons, "deaths": RUNS_MAX * poisons, "others served": others}


def _post_until_ended(it: Served, chance: random.Random, bad: list[str]) -> list[str]:
    """Post a task at each look: the pool takes work all the while; returns their ids."""
    probes: list[str] = []

    def ended() -> bool:
        (answer,) = post_all(it.stack, [Post.of(chance, priority="batch")])
        assert answer.status in {202, 429}, answer.body
        assert _health(it)["breaker"] == "closed"
        probes.extend(accepted([answer]))
        return all(it.client.task(task_id)["state"] == "failed" for task_id in bad)

    until(ended, ENDED_S, "every poisonous task is given up")
    return probes


def _assert_stays_closed(it: Served) -> None:
    deadline = time.monotonic() + SEEN_S
    while time.monotonic() < deadline:
        assert _health(it)["breaker"] == "closed"


def _health(it: Served) -> dict[str, Any]:
    return dict(it.client.get(f"/v1/pools/{POOL}/health").json())


def _assert_given_up(it: Served, task_id: str) -> None:
    events = it.client.collect(task_id)
    assert_grammar(events)
    assert (events[-1].data["code"], events[-1].data["retriable"]) == ("POISON", False)
    assert len(runs_of(it.stack, [task_id])) == RUNS_MAX
