"""A task's wait in the queue: what to say of it, and when it is worth saying again.

Figures come about once a second.  A terminal shows each; elsewhere a line is
written only when the wait has become another one: nearer by a quarter, a start
that was not known before, or, after a while of silence, something worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from llama_orch.output import duration, number

# A deadline is at risk below this chance to meet it.
ON_TIME_LOW = 0.8
# News that may come and go again is told this long after the last line, not sooner.
QUIET_S = 5.0
NEARER = 0.75
START_DRIFT_MS = 2000.0
START_DRIFT = 0.25


@dataclass(frozen=True, slots=True)
class Waiting:
    """The wait as of `at`, seconds of a monotonic clock; None: not known."""

    position: int | None
    starts_in_ms: float | None
    on_time: float | None
    at: float

    @classmethod
    def told_by(cls, data: Mapping[str, object], at: float) -> Self:
        """From an admission or a `metrics` event; what is no number counts as not known."""
        position = number(data.get("queue_position"))
        return cls(
            position=None if position is None else int(position),
            starts_in_ms=number(data.get("predicted_start_ms")),
            on_time=number(data.get("on_time_probability")),
            at=at,
        )

    @property
    def at_risk(self) -> bool:
        """Whether the deadline may well be missed."""
        return self.on_time is not None and self.on_time < ON_TIME_LOW

    def words(self) -> str:
        """The wait as one line."""
        line = f"queued, {_ahead(self.position)}"
        if self.starts_in_ms is not None:
            line += f", starts in {about(self.starts_in_ms)}"
        if self.on_time is not None and self.at_risk:
            line += f", {self.on_time:.0%} likely to meet its deadline"
        return line

    def is_news_after(self, said: Waiting) -> bool:
        """Whether somebody who was told `said` should be told this."""
        if self._is_nearer_than(said):
            return True
        return self.at - said.at >= QUIET_S and self._differs_from(said)

    def _is_nearer_than(self, said: Waiting) -> bool:
        if self.starts_in_ms is not None and said.starts_in_ms is None:
            return True
        if self.position is None:
            return False
        if said.position is None:
            return True
        return self.position < said.position and self.position <= NEARER * said.position

    def _is_further_than(self, said: Waiting) -> bool:
        if self.position is None or said.position is None:
            return False
        return self.position > said.position

    def _differs_from(self, said: Waiting) -> bool:
        if self.at_risk is not said.at_risk or self._is_further_than(said):
            return True
        if self.starts_in_ms is None or said.starts_in_ms is None:
            return False
        passed_ms = (self.at - said.at) * 1000
        drift = abs(self.starts_in_ms + passed_ms - said.starts_in_ms)
        return drift > max(START_DRIFT_MS, START_DRIFT * said.starts_in_ms)


def about(milliseconds: float) -> str:
    """A prediction, no more exact than it is."""
    return "less than a second" if milliseconds < 1000 else f"about {duration(milliseconds)}"


def _ahead(position: int | None) -> str:
    if position is None:
        return "waiting for a slot"
    if position == 0:
        return "next in line"
    return f"{position} task{'s' if position > 1 else ''} ahead"
