"""When a replica that failed is started again, and when it is left alone.

The delay before try n + 1 is `base_ms * 2**n`, moved by up to a quarter either
way so that replicas that died together do not start together, and never above
`cap_ms`.  `intensity` failures within `window_ms` open the breaker: nothing is
started for `cap_ms`, then one try is made (half open).  That try closes it by
serving, or opens it again by failing.  Serving for `stable_ms` without a break
forgets all earlier failures; serving for less forgets none, or a replica that
dies a second after each start would be restarted at full speed for ever.

A task may kill every replica it runs on.  So a failure is blamed on the tasks that
held slots at it, and a further one with such a task is not counted again within
the window: it delays the next start, as any does, but does not bring the breaker
nearer, which would keep out all others' tasks for the sake of one.

Some failures cannot heal by trying again (`UNRECOVERABLE`): those are given up
at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from contracts.config import Restart
from contracts.pools import FailureReason

UNRECOVERABLE = frozenset(
    {
        FailureReason.BAD_ARGUMENT,
        FailureReason.DIGEST_MISMATCH,
        FailureReason.DOWNLOAD_DENIED,
        FailureReason.GPU_LOST,
        FailureReason.INSUFFICIENT_VRAM,
        FailureReason.MODEL_INVALID,
        FailureReason.MODEL_MISSING,
        FailureReason.TOOL_MISSING,
        FailureReason.VERSION_MISMATCH,
        FailureReason.VRAM_OOM,
        FailureReason.WORKLOAD_MISSING,
    }
)
JITTER = 0.25


class Breaker(StrEnum):
    """Whether starts are tried."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Retry:
    """Start again after `delay_ms`."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Pause:
    """The breaker is open: try once, after `delay_ms`."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Trying again cannot help."""


Decision = Retry | Pause | GiveUp


@dataclass(frozen=True, slots=True)
class _Counted:
    """A failure that counts, and the tasks that held slots at it."""

    at: int
    tasks: frozenset[str]


@dataclass(frozen=True, slots=True)
class RestartState:
    """What outlives a restart of the daemon; times in Unix ms."""

    failures: tuple[tuple[int, frozenset[str]], ...]
    """When, and the tasks that held slots."""
    tries: int
    retry_at: int | None
    """When the next try is due; None: none is, or the last failure cannot heal by trying."""
    open: bool
    """Whether the breaker is, until then."""


class RestartBudget:
    """The failures of one replica and what follows from them; times in monotonic ms."""

    def __init__(self, policy: Restart) -> None:
        self.breaker = Breaker.CLOSED
        self._policy = policy
        self._failures: deque[_Counted] = deque(maxlen=policy.intensity)
        self._tries = 0
        self._serving_since: int | None = None
        self._retry_at: int | None = None

    def state(self, now: int, unix_now: int) -> RestartState:
        """Everything that counts, as of now."""
        shift = unix_now - now
        failures = tuple(
            (failure.at + shift, failure.tasks)
            for failure in self._failures
            if self._is_recent(failure, now)
        )
        retry_at = None if self._retry_at is None else self._retry_at + shift
        return RestartState(failures, self._tries, retry_at, self.breaker is not Breaker.CLOSED)

    def restore(self, state: RestartState, now: int, unix_now: int) -> int:
        """Go on from an earlier life of the daemon; returns the ms until the next try.

        Failures older than `stable_ms` delay nothing any more, a wall clock that was
        set back makes nothing wait longer than its policy says, and a failure that
        cannot heal by trying is tried once more: a start of the daemon is its
        operator's word.
        """
        shift = now - unix_now
        for at, tasks in state.failures[-self._policy.intensity :]:
            self._failures.append(_Counted(min(now, at + shift), tasks))
        newest = max((at for at, _ in state.failures), default=0)
        lately = state.retry_at is not None or unix_now - newest <= self._policy.stable_ms
        self._tries = state.tries if lately else 0
        if state.retry_at is None:
            return 0
        if state.open:
            self.breaker = Breaker.OPEN
        self._retry_at = now + min(self._policy.cap_ms, max(0, state.retry_at - unix_now))
        return self._retry_at - now

    def serving(self, now: int) -> None:
        """The replica serves from now on; a half-open breaker closes."""
        self._serving_since = now
        self._retry_at = None
        self.breaker = Breaker.CLOSED

    def starting(self) -> None:
        """A start begins; out of an open breaker it is the half-open one."""
        if self.breaker is Breaker.OPEN:
            self.breaker = Breaker.HALF_OPEN

    def follow(self, policy: Restart) -> None:
        """Judge further failures by another policy."""
        self._policy = policy
        self._failures = deque(self._failures, maxlen=policy.intensity)

    def reset(self) -> None:
        """Forget all failures: an operator says that their cause is mended."""
        self._failures.clear()
        self._tries, self._retry_at = 0, None
        self.breaker = Breaker.CLOSED

    def failed(
        self,
        reason: FailureReason,
        now: int,
        chance: float,
        tasks: frozenset[str] = frozenset(),
    ) -> Decision:
        """What to do after a failure at `now`.

        Args:
            chance: uniform in [0, 1].
            tasks: ids of those that held slots when it failed.
        """
        self._forget_if_stable(now)
        self._serving_since = None
        if reason in UNRECOVERABLE:
            self.breaker, self._retry_at = Breaker.OPEN, None
            return GiveUp()
        self._tries += 1
        decision: Retry | Pause = Retry(self._delay_ms(chance))
        if self._one_too_many(now, tasks) or self.breaker is Breaker.HALF_OPEN:
            self.breaker = Breaker.OPEN
            decision = Pause(self._policy.cap_ms)
        self._retry_at = now + decision.delay_ms
        return decision

    def _forget_if_stable(self, now: int) -> None:
        since = self._serving_since
        if since is not None and now - since >= self._policy.stable_ms:
            self._failures.clear()
            self._tries = 0

    def _one_too_many(self, now: int, tasks: frozenset[str]) -> bool:
        """Count a failure unless it is on a task that is blamed already; True at `intensity`.

        The deque holds no more than these.
        """
        recent = [failure for failure in self._failures if self._is_recent(failure, now)]
        if any(tasks & failure.tasks for failure in recent):
            return False
        self._failures.append(_Counted(now, tasks))
        full = len(self._failures) == self._policy.intensity
        return full and self._is_recent(self._failures[0], now)

    def _is_recent(self, failure: _Counted, now: int) -> bool:
        return now - failure.at <= self._policy.window_ms

    def _delay_ms(self, chance: float) -> int:
        # 2**40 ms is past every cap; without the bound a long outage would
        # build integers of thousands of digits.
        doubled: int = self._policy.base_ms << min(self._tries - 1, 40)
        spread = 1 + JITTER * (2 * chance - 1)
        return min(self._policy.cap_ms, round(min(doubled, self._policy.cap_ms) * spread))
