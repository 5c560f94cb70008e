"""What was accepted survives SIGKILL at any instant."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from test_harness.chaos.durability.attempts import overlaps, runs_of
from test_harness.chaos.durability.history import History, Kept, Operation, Told, kept, wait_ended
from test_harness.chaos.durability.posters import posting
from test_harness.chaos.figures import Figures, at_least, at_most, exactly
from test_harness.chaos.rig import fake_pool, served
from test_harness.stack import Stack

KILL_AFTER_S = (0.01, 0.4)
WHILE_STARTING = 0.25
"""The share of kills whose instant counts from the start of the process: it recovers then."""
RUNS_MOST = 12
SLOTS = 4
ENDED_WITHIN_S = 120.0
KEEP = {"retention_ms": 24 * 3600 * 1000}


def killed_at_random(root: Path, seed: int, full: bool) -> Figures:
    """orchestratord dies again and again under clients who insist; nothing is lost or doubled."""
    kills, posters, accepts = (200, 32, 10_000) if full else (6, 4, 100)
    log, chance, ahead = root / "attempts.jsonl", random.Random(seed), accepts / 10 + posters
    pool = fake_pool(root, "--token-ms", "2", "--attempts-log", str(log), slots=SLOTS)
    with served(root, pool, streams=KEEP) as stack:
        killed: list[int] = []

        def wanted(history: History) -> bool:
            return len(history.operations) < accepts * len(killed) / kills + ahead

        with posting(stack, str(seed), posters, insists=True, pace=wanted) as history:
            while len(killed) < kills:
                killed.append(_kill(stack, chance))
            stack.daemons["orchestratord"].wait_ready()
            _wait_accepted(history, accepts)
        operations = history.operations
        wait_ended(stack, (o.task_id for o in operations), ENDED_WITHIN_S * (5 if full else 1))
        ended = kept(stack, operations)
        again = _after_another_start(stack, operations)
    assert ended.views == again.views, "an end is the last word"
    return {
        "kills": exactly(killed.count(-signal.SIGKILL), kills),
        "accepted": at_least(len(history.told(Told.OK)), accepts),
        **_figures(root, history, ended),
    }


def _kill(stack: Stack, chance: random.Random) -> int:
    """One kill, and the next start; the exit code."""
    daemon = stack.daemons["orchestratord"]
    if chance.random() > WHILE_STARTING:
        daemon.wait_ready()
    time.sleep(chance.uniform(*KILL_AFTER_S))
    code = daemon.stop(signal.SIGKILL)
    stack.start("orchestratord")
    return code


def _wait_accepted(history: History, accepts: int) -> None:
    deadline = time.monotonic() + ENDED_WITHIN_S
    while len(history.told(Told.OK)) < accepts:
        assert time.monotonic() < deadline, "too few tasks were accepted"
        time.sleep(0.05)


def _after_another_start(stack: Stack, operations: Iterable[Operation]) -> Kept:
    assert stack.daemons["orchestratord"].stop() == 0
    stack.start("orchestratord").wait_ready()
    return kept(stack, operations)


def _figures(root: Path, history: History, ended: Kept) -> Figures:
    runs = runs_of(root / "attempts.jsonl")
    ours = [runs.get(view["correlation_id"], []) for view in ended.views.values()]
    states = ended.states()
    succeeded, interrupted = states.pop("succeeded", 0), states.pop("INTERRUPTED", 0)
    assert not states, f"ended neither well nor INTERRUPTED: {states}"
    return {
        "requests sent": history.tries,
        "lost": exactly(len(ended.lost), 0),
        "refused": exactly(len(history.told(Told.FAILED)), 0),
        "succeeded": succeeded,
        "interrupted": interrupted,
        "wrong texts": exactly(len(ended.wrong_texts(history.operations)), 0),
        "attempts that overlap": exactly(sum(map(overlaps, ours)), 0),
        "runs of one task, at most": at_most(max(map(len, ours)), RUNS_MOST),
        "tasks run more than once": sum(len(times) > 1 for times in ours),
        "run again after a token was readable": exactly(_run_again(root), 0),
    }


def _run_again(root: Path) -> int:
    """Tasks with an attempt after the one whose token was readable."""
    path = root / "state" / "orchestratord.sqlite"
    query = "SELECT count(*) FROM tasks WHERE readable > 0 AND readable <> attempt"
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(query).fetchone()[0])
