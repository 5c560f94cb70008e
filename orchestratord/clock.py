"""Time as the daemon reads it; tests bring their own."""

from __future__ import annotations

import time
from typing import Protocol

_NS_PER_MS = 1_000_000


class Clock(Protocol):
    """Two clocks: one to measure with, and one people can read."""

    def now(self) -> float:
        """Monotonic seconds; every wait, lease and deadline is measured on it."""
        ...

    def unix_ms(self) -> int:
        """Milliseconds since the epoch, for rows; it never jumps within a life of the daemon."""
        ...


class SystemClock:
    """The machine's clocks.

    The time of day is read once and goes on with the time since boot, which counts
    a suspended machine too.  So a wall clock that somebody sets, by an hour or by a
    day, ends no retention early and makes no row older than the one before; the
    next start of the daemon follows it.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def unix_ms(self) -> int:
        """Unix milliseconds, as of the time of day at the start."""
        return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self._offset_ns) // _NS_PER_MS
