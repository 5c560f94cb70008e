"""What was measured: numbers, and numbers with a bound.

Counts are exact at both scales.  A bound of time is ten times wider in a short run,
where the machine is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SHORT_SLACK = 10.0
"""How much wider a bound of time is in a short run."""


@dataclass(frozen=True)
class Bounded:
    """A number that was measured, and whether it is as it must be."""

    value: float
    bound: str
    held: bool


Figures = Mapping[str, float | Bounded]
"""By name; the unit is part of the name."""


def exactly(value: float, wanted: float) -> Bounded:
    """A count that must be this one."""
    return Bounded(value, f"{wanted:g}", value == wanted)


def at_least(value: float, least: float) -> Bounded:
    """A number that must not be smaller."""
    return Bounded(value, f">= {least:g}", value >= least)


def at_most(value: float, most: float) -> Bounded:
    """A number that must not be larger."""
    return Bounded(value, f"<= {most:g}", value <= most)


def timely(value: float, most: float, full: bool) -> Bounded:
    """A time that must not be longer at full scale, nor ten times longer in a short run."""
    return at_most(value, most if full else SHORT_SLACK * most)


def broken(figures: Figures) -> list[str]:
    """One line for each figure that is not as it must be."""
    return [
        f"{name}: {figure.value:g}, must be {figure.bound}"
        for name, figure in figures.items()
        if isinstance(figure, Bounded) and not figure.held
    ]
