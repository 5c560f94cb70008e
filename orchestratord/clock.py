"""Time as the daemon reads it; tests bring their own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that never jumps, and one people can read."""

    def now(self) -> float:
        """Monotonic seconds; every wait, lease and deadline is measured on it."""
        ...

    def unix_ms(self) -> int:
        """Milliseconds since the epoch; written to rows, never subtracted to decide."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def unix_ms(self) -> int:
        """Unix milliseconds."""
        return time.time_ns() // 1_000_000
