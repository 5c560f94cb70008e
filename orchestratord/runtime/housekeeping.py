"""What must be looked at although nothing happened: clocks, leases, budgets of time, retention."""

from __future__ import annotations

from functools import partial

import anyio
import structlog
from anyio.abc import TaskGroup

from contracts.config import Streams
from contracts.errors import ErrorCode
from orchestratord.clock import Clock
from orchestratord.domain.budgets import Amounts
from orchestratord.domain.sessions import SessionTable
from orchestratord.errors import StorageBusy, StorageFull
from orchestratord.runtime.active_task import ActiveTask
from orchestratord.runtime.attempt import Attempt
from orchestratord.runtime.dispatcher import Dispatcher, deadline_unmet
from orchestratord.runtime.draining import cut_of
from orchestratord.runtime.ending import Failed
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.stores.sessions import SessionStore
from orchestratord.stores.tasks import TaskStore

log = structlog.get_logger()

TICK_S = 0.1
RETENTION_EVERY_S = 5.0
STALL_S = 1.0
"""A tick that comes so late was held up with everything else of this process."""
TURNING_S = 5.0
"""A loop whose newest tick is older does not turn any more."""
TIME_AHEAD_MS = 250
"""Time is held so far ahead of its use: more than a tick, so that it never runs out unseen."""
TIME_STEP_MS = 1_000
"""Held at a time when a task runs for longer than was expected."""


class Housekeeping:
    """Two loops; one look costs as much as there are attempts, nothing per token."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        pools: PoolsView,
        sessions: SessionTable,
        shelf: LogShelf,
        store: TaskStore,
        session_store: SessionStore,
        clock: Clock,
        streams: Streams,
        group: TaskGroup,
    ) -> None:
        self._dispatcher = dispatcher
        self._pools = pools
        self._sessions = sessions
        self._shelf = shelf
        self._store = store
        self._session_store = session_store
        self._clock = clock
        self._streams = streams
        self._group = group
        self._looked_at: float | None = None
        self._patient_until = 0.0

    def is_turning(self) -> bool:
        """Whether the clocks were looked at lately."""
        seen = self._looked_at
        return seen is not None and self._clock.now() - seen < TURNING_S

    async def watch_clocks(self) -> None:
        """Abort what is overdue, renew leases, expire waiting tasks; for ever."""
        while True:
            await anyio.sleep(TICK_S)
            self.tick(self._clock.now())

    def tick(self, now: float) -> None:
        """One look at every attempt; `now` in monotonic seconds."""
        self._notice_stall(now)
        for task, attempt in self._dispatcher.attempts:
            over = self._overdue(task, attempt, now) or cut_of(self._pools, task.spec, attempt, now)
            if over is not None:
                attempt.abort(over)
            elif attempt.renewal_due(now):
                read = now >= self._patient_until
                self._group.start_soon(partial(attempt.renew, tells_idle=read))
        self._dispatcher.pump()

    async def enforce_retention(self) -> None:
        """Drop logs, rows and sessions past their time; for ever."""
        while True:
            await anyio.sleep(RETENTION_EVERY_S)
            await self.sweep()

    async def sweep(self) -> None:
        """Drop what is past its time now; what the disk does not take goes the next time."""
        running = [task.log for task, _ in self._dispatcher.attempts]
        self._shelf.evict(self._clock.now(), running)
        unix_ms = self._clock.unix_ms()
        ended = self._sessions.expire(self._clock.now())
        try:
            if ended:
                await self._session_store.forget(ended, unix_ms)
            await self._store.delete_finished(unix_ms - self._streams.retention_ms)
        except (StorageBusy, StorageFull) as error:
            log.warning("retention_deferred", reason=error.code.value)

    def _notice_stall(self, now: float) -> None:
        """Judge no engine by the time in which this process itself stood still.

        After a suspended machine or a stopped process the tokens of that time
        wait in the sockets: they are read before anybody is called silent.
        """
        if self._looked_at is not None and now - self._looked_at > STALL_S:
            self._patient_until = now + STALL_S
        self._looked_at = now

    def _overdue(self, task: ActiveTask, attempt: Attempt, now: float) -> Failed | None:
        deadline = task.scheduled.deadline
        if deadline is not None and deadline <= now:
            return deadline_unmet(task)
        silent = None if now < self._patient_until else attempt.overdue(now)
        return silent or self._out_of_time(task, attempt, now)

    def _out_of_time(self, task: ActiveTask, attempt: Attempt, now: float) -> Failed | None:
        """Hold more time for a task that needs it; an ending where its session has none left."""
        scheduled, began = task.scheduled, attempt.progress.started_at
        session = scheduled.session
        if session is None or began is None or session.ledger.limits.time_ms is None:
            return None
        used_ms = (now - began) * 1000
        if used_ms + TIME_AHEAD_MS < scheduled.hold.time_ms or task.settlement is not None:
            return None
        more = session.ledger.extend_time(TIME_STEP_MS)
        if more:
            scheduled.hold += Amounts(time_ms=more)
            self._group.start_soon(self._extend, task.task_id, session.session_id, more)
        elif used_ms >= scheduled.hold.time_ms:
            return Failed(
                ErrorCode.BUDGET_EXHAUSTED,
                f"the time budget of session {session.session_id} is used up;"
                f" raise it with PUT /v1/sessions/{session.session_id}",
            )
        return None

    async def _extend(self, task_id: str, session_id: str, more_ms: int) -> None:
        """Write a longer hold; where the disk does not take it, only a crash would notice."""
        try:
            await self._store.extend_time(task_id, session_id, more_ms)
        except (StorageBusy, StorageFull) as error:
            log.warning("time_hold_not_written", task_id=task_id, reason=error.code.value)
