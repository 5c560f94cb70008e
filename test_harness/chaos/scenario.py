"""A promise, the fault that puts it to the test, and what was measured.

A scenario is a function of a directory of its own, a seed and a scale.  It asserts
what must hold, and returns what it measured.

    def killed_at_random(root: Path, seed: int, full: bool) -> Figures:
        kills = 200 if full else 6
        ...
        return {
            "kills": exactly(killed, kills),
            "lost": exactly(len(lost), 0),
            "ready after, s": timely(longest, 2.0, full),
        }

    SCENARIOS = (Scenario("D-1", "accepted is never lost", killed_at_random, fault="kills"),)

A test plays each one short, `ci/soak` plays it full.  `SCENARIOS` of a subject stands in
its `catalogue.py`, and the subjects in that of this package.

A scenario that never reached its fault has proved nothing, so each one names the
figure that counts its fault, and fails where that is 0.  What every scenario must
leave behind is looked at here, over all the stacks it made below its directory, and how
late the loops of their daemons were.  Open files can only be compared around a block
that one daemon lives through: `standing.standing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from test_harness.chaos.aftermath import aftermath
from test_harness.chaos.figures import Bounded, Figures, at_least, broken
from test_harness.chaos.standing import noted

Play = Callable[[Path, int, bool], Figures]
"""Arguments: an empty directory, a seed, and whether it is played at full scale."""


class Missing(Exception):
    """This machine lacks something that a scenario needs; names it."""


@dataclass(frozen=True)
class Scenario:
    """One row of `.specs/faults.md`, or a part of one."""

    row: str
    promise: str
    play: Play
    fault: str
    """The figure that counts how often the fault was reached."""
    server_errors: frozenset[int] = frozenset()
    """The 5xx statuses that belong to it."""
    defects: frozenset[str] = frozenset()
    """The log events with a traceback that belong to it."""
    stands_still: bool = False
    """Whether it stops the whole process, so that its loop is late."""

    @property
    def name(self) -> str:
        """How it is asked for."""
        return self.play.__name__


@dataclass(frozen=True)
class Outcome:
    """What became of a scenario that was played to its end."""

    scenario: Scenario
    figures: Figures
    seconds: float

    @property
    def broken(self) -> list[str]:
        """One line for each figure that is not as it must be; none where the promise held."""
        return broken(self.figures)


def perform(scenario: Scenario, root: Path, seed: int, full: bool) -> Outcome:
    """Play it in `root`, then look at what it left.

    Raises:
        AssertionError: it saw for itself that its promise does not hold.
        Missing: it cannot be played here.
    """
    began = time.monotonic()
    figures = dict(scenario.play(root, seed, full))
    fault = figures[scenario.fault]
    if isinstance(fault, Bounded):
        assert fault.value > 0, f"the fault was never reached: no {scenario.fault}"
    else:
        figures[scenario.fault] = at_least(fault, 1)
    if not scenario.stands_still:
        figures |= noted(root, full)
    figures |= aftermath(root, scenario.server_errors, scenario.defects)
    return Outcome(scenario, figures, time.monotonic() - began)
