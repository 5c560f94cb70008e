"""Whether an engine moves on: the third question of health, beside alive and ready.

An engine that answers every probe may be dead all the same: its GPU call never
returns, and it goes on saying 200.  So what counts is work.  A sign of life is any
of these: the engine's own figure of work done has changed, a task under a lease
reports progress, or a token was generated when it was asked for one.

    in flight, and no sign of life for too long   -> STALLED
    idle, and no sign of life for `canary_ms`     -> CANARY_DUE
    else                                          -> FINE

"Too long" is `stall_ms` once the work in flight has shown a sign, and
`first_token_ms` before: a long prefill on an engine that does not tell how far it
is must not be taken for a hang.  A probe that passes is no sign of life.

Times are monotonic ms and come in as `now`.
"""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What the signs say."""

    FINE = "fine"
    CANARY_DUE = "canary_due"
    STALLED = "stalled"


class Progress:
    """The signs of life of one replica since it began to serve at `now`."""

    def __init__(self, now: int, stall_ms: int, first_token_ms: int, canary_ms: int) -> None:
        self._stall_ms = stall_ms
        self._first_token_ms = max(stall_ms, first_token_ms)
        self._canary_ms = canary_ms
        self._sign_at = now
        self._busy_since: int | None = None
        self._work_done: int | None = None

    def counted(self, work_done: int | None, now: int) -> None:
        """The engine's figure of the work it has done, which changes with it; None: not told."""
        if work_done is not None and work_done != self._work_done:
            if self._work_done is not None:
                self.moved(now)
            self._work_done = work_done

    def moved(self, at: int) -> None:
        """A task, or a token that was asked for, showed progress at `at`."""
        self._sign_at = max(self._sign_at, at)

    def loaded(self, in_flight: int, now: int) -> None:
        """So many requests are under way: by the engine's word, or under leases."""
        if in_flight == 0:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now

    def verdict(self, now: int) -> Verdict:
        """Whether it moves, as of `now`."""
        if self._busy_since is None:
            return Verdict.CANARY_DUE if now - self._sign_at >= self._canary_ms else Verdict.FINE
        has_moved = self._sign_at > self._busy_since
        silent_ms = now - max(self._sign_at, self._busy_since)
        bound_ms = self._stall_ms if has_moved else self._first_token_ms
        return Verdict.STALLED if silent_ms >= bound_ms else Verdict.FINE
