"""A process that dies, or meets an error, at exactly the worst place."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2

from contracts.service.failpoints import POINTS
from test_harness.chaos.aftermath import log_lines
from test_harness.chaos.durability.history import (
    History,
    Operation,
    Told,
    kept,
    wait_ended,
)
from test_harness.chaos.durability.posters import posting
from test_harness.chaos.durability.syscalls import Synced, can_trace, traced
from test_harness.chaos.figures import Figures, at_least, at_most, exactly
from test_harness.chaos.rig import POOL, fake_pool, served, start_failing, unserved, wait_dead
from test_harness.stack import Daemon, Stack, wait_for
from test_harness.task_client import TaskClient

COMMIT_POINTS = ("db.commit", "db.committed", "task.accepted")
"""Before, at and after what makes a task accepted."""
NAMES = tuple(POINTS["orchestratord"])
OF_ATTEMPTS = tuple(name for name in NAMES if name.startswith(("task.", "lease.")))
HIT_MOST = 30
POSTERS = 4
KEEP = {"retention_ms": 24 * 3600 * 1000}
ENDED_WITHIN_S = 60.0
NEIGHBOURS = 3


def acknowledged_is_on_disk(root: Path, seed: int, full: bool) -> Figures:
    """Killed around a commit: what was answered 202 is there, whatever the instant."""
    rounds, chance, history = 50 if full else 1, random.Random(seed), History()
    with unserved(root, streams=KEEP) as stack:
        for number in range(rounds):
            for point in COMMIT_POINTS:
                assert stack.daemons["orchestratord"].stop() == 0
                nth = chance.randint(1, HIT_MOST)
                history.operations += _until_killed(stack, f"{seed}/{number}/{point}", point, nth)
                stack.start("orchestratord").wait_ready()
        found = kept(stack, history.operations)
        synced = _traced_posts(stack, 200 if full else 20)
    unanswered = history.told(Told.UNKNOWN)
    there = sum(operation.task_id in found.views for operation in unanswered)
    return {
        "kills": exactly(_kills_logged(root), rounds * len(COMMIT_POINTS)),
        "accepted": at_least(len(history.told(Told.OK)), 1),
        "of these lost": exactly(len(found.lost), 0),
        "refused": exactly(len(history.told(Told.FAILED)), 0),
        "without an answer": at_least(len(unanswered), 1),
        "of these there": there,
        "posts traced": synced.answers,
        "of these answered before a sync": exactly(synced.unsynced, 0),
    }


def killed_at_every_failpoint(root: Path, seed: int, full: bool) -> Figures:
    """Each named point kills at its k-th hit; the next start, with the next point, goes on."""
    rounds, hit_most = (20, 20) if full else (1, 5)
    chance, history = random.Random(seed), History()
    pool = fake_pool(root, "--token-ms", "2", slots=4)
    with served(root, pool, streams=KEEP) as stack:
        for number in range(rounds):
            for point in NAMES:
                stack.daemons["orchestratord"].stop(signal.SIGKILL)  # the first is alive
                nth = chance.randint(1, hit_most)
                history.operations += _until_killed(stack, f"{seed}/{number}/{point}", point, nth)
        stack.start("orchestratord").wait_ready()
        accepted = [operation.task_id for operation in history.told(Told.OK)]
        wait_ended(stack, [o.task_id for o in history.operations], ENDED_WITHIN_S)
        found = kept(stack, history.operations)
    states = found.states()
    succeeded, interrupted = states.pop("succeeded", 0), states.pop("INTERRUPTED", 0)
    assert not states, f"ended neither well nor INTERRUPTED: {states}"
    reached = [line["name"] for line in log_lines(root, "failpoint.reached")]
    return {
        "kills": exactly(len(reached), rounds * len(NAMES)),
        "points reached": exactly(len(set(reached)), len(NAMES)),
        "accepted": at_least(len(accepted), 1),
        "of these lost": exactly(len(found.lost), 0),
        "succeeded": succeeded,
        "interrupted": interrupted,
        "wrong texts": exactly(len(found.wrong_texts(history.operations)), 0),
    }


def errors_at_every_failpoint(root: Path, seed: int, full: bool) -> Figures:
    """An error at each point of an attempt ends one task at most, and not the daemon."""
    rounds, chance, codes = 5 if full else 1, random.Random(seed), Counter[str]()
    pool = fake_pool(root, "--token-ms", "2", slots=4)
    with served(root, pool, streams=KEEP) as stack:
        for number in range(rounds):
            for point in OF_ATTEMPTS:
                stack.daemons["orchestratord"].stop()
                nth = chance.randint(1, NEIGHBOURS)
                codes += _with_an_error(stack, f"{seed}/{number}/{point}", point, nth)
    reached = [line["name"] for line in log_lines(root, "failpoint.reached")]
    crashed = [line["exception"] for line in log_lines(root, "daemon.crashed")]
    well, internal = codes.pop("succeeded", 0), codes.pop("INTERNAL", 0)
    return {
        "errors": exactly(len(reached), rounds * len(OF_ATTEMPTS)),
        "points reached": exactly(len(set(reached)), len(OF_ATTEMPTS)),
        "daemons that ended": exactly(len(crashed), 0),
        "ended well": at_least(well, rounds * len(OF_ATTEMPTS) * (NEIGHBOURS - 1)),
        "ended INTERNAL": at_most(internal, rounds * len(OF_ATTEMPTS)),
        "ended otherwise": exactly(codes.total(), 0),
    }


def _until_killed(stack: Stack, seed: str, point: str, nth: int) -> list[Operation]:
    """Start with a point that kills at its n-th hit, and post until it has."""
    before = _kills_logged(stack.root)
    daemon = start_failing(stack, f"{point}={_others(nth)}1*kill")
    with posting(stack, seed, POSTERS, insists=False, pace=_alive(stack)) as history:
        code = wait_dead(daemon, f"{point} is reached {nth} times")
    assert code == -signal.SIGKILL, daemon.logged()[-2000:]
    assert _kills_logged(stack.root) == before + 1
    return history.operations


def _traced_posts(stack: Stack, posts: int) -> Synced:
    """One client's posts, seen by strace; none where it cannot be had."""
    if not can_trace():
        return Synced()
    pid = stack.daemons["orchestratord"].process.pid
    with TaskClient(stack) as client, traced(pid, stack.root / "strace.txt") as synced:
        for _ in range(posts):
            client.accept()
    assert synced.answers == posts, "every 202 was seen"
    return synced


def _with_an_error(stack: Stack, seed: str, point: str, nth: int) -> Counter[str]:
    """Tasks side by side, one of which meets the error; how they ended."""
    daemon = start_failing(stack, f"{point}={_others(nth)}1*error(EIO)")
    daemon.wait_ready()
    stack.wait_serving(POOL)
    with posting(stack, seed, 1, insists=True, pace=_fewer_than(NEIGHBOURS)) as history:
        wait_for(lambda: _posted_or_ended(history, daemon), "the tasks are posted")
    try:
        return _ends(stack, history)
    except httpx2.TransportError:  # the daemon has ended, which is told by its log
        wait_dead(daemon, "orchestratord has ended")
        stack.start("orchestratord").wait_ready()
        return _ends(stack, history)


def _ends(stack: Stack, history: History) -> Counter[str]:
    wait_ended(stack, [o.task_id for o in history.operations], ENDED_WITHIN_S)
    return kept(stack, history.operations).states()


def _posted_or_ended(history: History, daemon: Daemon) -> bool:
    return len(history.operations) >= NEIGHBOURS or daemon.process.poll() is not None


def _others(nth: int) -> str:
    return f"{nth - 1}*off->" if nth > 1 else ""


def _alive(stack: Stack) -> Callable[[History], bool]:
    return lambda _: stack.daemons["orchestratord"].process.poll() is None


def _fewer_than(count: int) -> Callable[[History], bool]:
    return lambda history: len(history.operations) < count


def _kills_logged(root: Path) -> int:
    return sum(line["action"] == "kill" for line in log_lines(root, "failpoint.reached"))
