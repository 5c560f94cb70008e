"""What stand-in engines ran, out of their attempts log."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One completion request as an engine saw it; times in Unix seconds."""

    began_at: float
    ended_at: float
    """Infinite where the engine was killed in the middle."""
    sent: int
    """Tokens."""


def runs_of(log: Path) -> dict[str, list[Run]]:
    """Correlation id -> its runs in the order of their beginnings.

    A run is matched with the next end of its id: where runs of one id overlap, which end
    belongs to which cannot be told, and does not matter for finding that they do.
    """
    runs: dict[str, list[Run]] = defaultdict(list)
    begun: dict[str, list[float]] = defaultdict(list)
    for line in log.read_text().splitlines() if log.exists() else ():
        row = json.loads(line)
        name = row["correlation_id"]
        if row["event"] == "begin":
            begun[name].append(row["at"])
        else:
            runs[name].append(Run(begun[name].pop(0), row["at"], row["sent"]))
    for name, times in begun.items():
        runs[name] += [Run(at, inf, 0) for at in times]
        runs[name].sort(key=lambda run: run.began_at)
    return dict(runs)


def overlaps(runs: Sequence[Run]) -> int:
    """How many of these began before the one before had ended."""
    return sum(later.began_at < earlier.ended_at for earlier, later in pairwise(runs))
