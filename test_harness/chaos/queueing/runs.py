"""What the engines themselves say they ran."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from test_harness.chaos.queueing.engines import ATTEMPTS
from test_harness.stack import Stack

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Run:
    """One completion request as an engine took it; times in Unix seconds.

    `ended` is infinite where the engine did not live to say so.
    """

    task_id: str
    pid: int
    slot: int | None
    began: float
    ended: float = math.inf
    sent: int = 0


def runs(stack: Stack) -> list[Run]:
    """Every request so far, in the order in which they came; those of probes are among them."""
    path = stack.root / ATTEMPTS
    taken: list[Run] = []
    open_runs: dict[tuple[str, int], int] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        row: dict[str, Any] = json.loads(line)
        key = (row["correlation_id"], row["pid"])
        if row["event"] == "begin":
            open_runs[key] = len(taken)
            taken.append(Run(*key, row["slot"], row["at"]))
        else:
            number = open_runs.pop(key)
            began = taken[number]
            taken[number] = Run(*key, row["slot"], began.began, row["at"], row["sent"])
    return taken


def runs_of(stack: Stack, task_ids: Collection[str]) -> list[Run]:
    """The same of some tasks alone."""
    wanted = set(task_ids)
    return [run for run in runs(stack) if run.task_id in wanted]


def most_at_once(of: Iterable[Run], key: Callable[[Run], Key], slack_s: float) -> dict[Key, int]:
    """How many ran at once at most, by key; an end may be noted so late."""
    moments: dict[Key, list[tuple[float, int]]] = defaultdict(list)
    for run in of:
        if run.ended - slack_s > run.began:
            moments[key(run)] += [(run.began, 1), (run.ended - slack_s, -1)]
    return {name: _highest(changes) for name, changes in moments.items()}


def _highest(changes: list[tuple[float, int]]) -> int:
    """The highest sum of changes in the order of time; at one moment what ends goes first."""
    total = most = 0
    for _, change in sorted(changes):
        total += change
        most = max(most, total)
    return most
