"""Q-10: no replica ever runs more than it has slots for."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx2

from test_harness.chaos.queueing.cards import two_cards
from test_harness.chaos.queueing.engines import (
    QUICK,
    Served,
    engines,
    pool_of,
    replicas,
    wait_given_back,
)
from test_harness.chaos.queueing.posts import Post, accepted, post_all
from test_harness.chaos.queueing.runs import most_at_once, runs_of
from test_harness.stack import Stack
from test_harness.task_client import assert_grammar

SLOTS = (3, 1)
"""Of each replica; the number stands at the end of the name of its card."""
TOKENS = (20, 60)
NOTED_LATE_S = 0.1
"""How late an engine may notice that a connection to it was closed."""
LOOK_EVERY_S = 0.01
FORGIVING = QUICK | {"intensity": 1_000}


def slots(root: Path, seed: int, full: bool) -> dict[str, float]:
    """A random mixture of posts, cancels and deaths of engines."""
    count, kills = (1_000, 20) if full else (50, 2)
    chance = random.Random(seed)
    gpus = two_cards(root, [f"card-{number}" for number in SLOTS])
    with engines(root, _pool(root), ready=2, gpus=gpus, queue={"capacity": count}) as it:
        posts = [_post(chance) for _ in range(count)]
        pauses = {post.task_id: chance.uniform(0, 1) for post in posts if chance.random() < 0.3}
        with _Leases(it.stack) as leases, ThreadPoolExecutor(8) as threads:
            assert len(accepted(post_all(it.stack, posts, connections=8))) == count
            canceling = [threads.submit(_cancel, it, *pair) for pair in pauses.items()]
            for _ in range(kills):
                _kill_one(it.stack, chance)
            for canceled in canceling:
                canceled.result()
            ends = Counter(_end(it, post.task_id) for post in posts)
            wait_given_back(it.stack)
        _assert_no_lease(it.stack)
        ran = runs_of(it.stack, [post.task_id for post in posts])
    assert not leases.failures, leases.failures
    by_pid = most_at_once(ran, lambda run: run.pid, NOTED_LATE_S)
    assert {pid: most for pid, most in by_pid.items() if most > leases.slots_of[pid]} == {}
    assert set(most_at_once(ran, lambda run: (run.pid, run.slot), NOTED_LATE_S).values()) == {1}
    assert {leases.slots_of[pid] for pid in by_pid} == set(SLOTS), "both kinds were used"
    assert max(by_pid.values()) == max(SLOTS), "and filled"
    assert len(by_pid) > len(SLOTS), "an engine was killed and came again"
    return {
        "tasks": count,
        "kills": kills,
        "canceled": ends["CANCELED"],
        "reset": ends["WORKER_RESET"],
        "ended well": ends["end"],
        "over the slots": 0,
    }


class _Leases:
    """Looks at the leases over and over around a block: never more than there are slots."""

    def __init__(self, stack: Stack) -> None:
        self.slots_of: dict[int, int] = {}
        self.failures: list[str] = []
        self._client = stack.client("pool_managerd")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            try:
                pools = self._client.get("/v1/snapshot").json()["pools"]
            except httpx2.HTTPError as error:
                self.failures.append(repr(error))
                continue
            for replica in pools[0]["replicas"]:
                self._note(replica)

    def _note(self, replica: dict[str, Any]) -> None:
        if replica["state"] == "ready":
            self.slots_of[replica["pid"]] = replica["slots_total"]
        if replica["slots_used"] > replica["slots_total"]:
            self.failures.append(f"{replica['slots_used']} of {replica['slots_total']} slots")


def _pool(root: Path) -> dict[str, Any]:
    """Two replicas of one command, with as many slots as the name of the card ends in."""
    pool = pool_of(root, "--token-ms", "10")
    python, *arguments = pool["provisioning"]["command"]
    script = 'card="$1"; shift; exec "$@" --slots "${card##*-}"'
    command = ["/bin/sh", "-c", script, "sh", "{devices}", python, *arguments]
    return pool | {
        "slots": max(SLOTS),
        "replicas": [{"devices": [f"card-{number}"]} for number in SLOTS],
        "provisioning": {"mode": "command", "command": command},
        "restart": FORGIVING,
    }


def _post(chance: random.Random) -> Post:
    priority = chance.choice(["interactive", "batch"])
    return Post.of(chance, priority=priority, max_tokens=chance.randint(*TOKENS))


def _cancel(it: Served, task_id: str, pause: float) -> None:
    time.sleep(pause)
    assert it.client.cancel(task_id) == 204


def _kill_one(stack: Stack, chance: random.Random) -> None:
    """SIGKILL an engine that is at work."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        busy = [r for r in replicas(stack) if r["state"] == "ready" and r["slots_used"]]
        if len(busy) == len(SLOTS):
            os.kill(chance.choice(busy)["pid"], signal.SIGKILL)
            time.sleep(chance.uniform(0.1, 0.3))
            return
        time.sleep(LOOK_EVERY_S)
    raise AssertionError("the engines are not at work; there is nothing to kill")


def _end(it: Served, task_id: str) -> str:
    """How a task ended; its stream is whole."""
    events = it.client.collect(task_id)
    assert_grammar(events)
    return events[-1].name if events[-1].name == "end" else str(events[-1].data["code"])


def _assert_no_lease(stack: Stack) -> None:
    """The metric says so too."""
    with stack.client("pool_managerd") as client:
        lines = client.get("/metrics").text.splitlines()
    gauges = [line for line in lines if line.partition("{")[0].endswith("active_leases")]
    assert len(gauges) == len(SLOTS), gauges
    assert {float(line.rpartition(" ")[2]) for line in gauges} == {0.0}
