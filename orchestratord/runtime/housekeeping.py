"""What must be looked at although nothing happened: clocks, leases, retention."""

from __future__ import annotations

import anyio
import structlog
from anyio.abc import TaskGroup

from contracts.config import Streams
from orchestratord.clock import Clock
from orchestratord.errors import StorageBusy, StorageFull
from orchestratord.runtime.dispatcher import Dispatcher, deadline_unmet
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.stores.tasks import TaskStore

log = structlog.get_logger()

TICK_S = 0.1
RETENTION_EVERY_S = 5.0


class Housekeeping:
    """Two loops; one look costs as much as there are attempts, nothing per token."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        shelf: LogShelf,
        store: TaskStore,
        clock: Clock,
        streams: Streams,
        group: TaskGroup,
    ) -> None:
        self._dispatcher = dispatcher
        self._shelf = shelf
        self._store = store
        self._clock = clock
        self._streams = streams
        self._group = group

    async def watch_clocks(self) -> None:
        """Abort what is overdue, renew leases, expire waiting tasks; for ever."""
        while True:
            await anyio.sleep(TICK_S)
            self.tick(self._clock.now())

    def tick(self, now: float) -> None:
        """One look at every attempt; `now` in monotonic seconds."""
        for task, attempt in self._dispatcher.attempts:
            deadline = task.scheduled.deadline
            if deadline is not None and deadline <= now:
                attempt.abort(deadline_unmet(task))
            elif (failed := attempt.overdue(now)) is not None:
                attempt.abort(failed)
            elif attempt.renewal_due(now):
                self._group.start_soon(attempt.renew)
        self._dispatcher.pump()

    async def enforce_retention(self) -> None:
        """Drop logs and rows past their retention; for ever."""
        while True:
            await anyio.sleep(RETENTION_EVERY_S)
            self._shelf.evict(self._clock.now())
            try:
                await self._store.delete_finished(
                    self._clock.unix_ms() - self._streams.retention_ms
                )
            except (StorageBusy, StorageFull) as error:
                log.warning("retention_deferred", reason=error.code.value)
