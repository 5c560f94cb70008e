"""Time as the daemon reads it; tests bring their own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that never jumps, and one people can read."""

    def now_ms(self) -> int:
        """Monotonic milliseconds; every lease, delay and age is measured on it."""
        ...

    def unix_ms(self) -> int:
        """Milliseconds since the epoch; shown to people, never subtracted to decide."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Monotonic milliseconds."""
        return time.monotonic_ns() // 1_000_000

    def unix_ms(self) -> int:
        """Unix milliseconds."""
        return time.time_ns() // 1_000_000
