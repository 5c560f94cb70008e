"""How far a download has come, told to everybody who waits for it, five times a second at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.pools import Phase, Preparation
from pool_managerd.clock import Clock

BETWEEN_MS = 200
WHAT_CHARACTERS_MAX = 512

Listener = Callable[[Preparation], None]


@dataclass
class Progress:
    """One download; `listeners` are called after a change."""

    clock: Clock
    listeners: list[Listener] = field(default_factory=list)
    _what: str = ""
    _since_ms: int = 0
    _told_at: int | None = None

    def begin(self, phase: Phase, what: str) -> None:
        """A new phase, told at once."""
        self._what, self._since_ms = what[:WHAT_CHARACTERS_MAX], self.clock.unix_ms()
        self._told_at = None
        self._tell(phase, None, None)
        self._told_at = None

    def bytes(self, done: int, total: int | None) -> None:
        """So many bytes are there; told if it is time, or if it was the last."""
        now = self.clock.now_ms()
        if self._told_at is None or now - self._told_at >= BETWEEN_MS or done == total:
            self._told_at = now
            self._tell(Phase.DOWNLOADING, done, total)

    def _tell(self, phase: Phase, done: int | None, total: int | None) -> None:
        for listener in tuple(self.listeners):
            listener(
                Preparation(
                    phase=phase, what=self._what, done=done, total=total, since_ms=self._since_ms
                )
            )
