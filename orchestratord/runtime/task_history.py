"""Tasks as they are written down, with their place in line where they still wait."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from contracts.tasks import TaskState
from orchestratord.clock import Clock
from orchestratord.domain.scheduler import Scheduler
from orchestratord.errors import TaskUnknown
from orchestratord.runtime.admissions import milliseconds
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.stores.tasks import TaskStore


@dataclass(frozen=True, slots=True)
class RecordedTask:
    """A row, and its place in line with its predicted start, ms: None once it has left."""

    row: sqlite3.Row
    queue_position: int | None
    predicted_start_ms: int | None


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Tasks newest first; `next_before` is the sequence number the next page begins under."""

    tasks: list[RecordedTask]
    next_before: int | None


class TaskHistory:
    """What GET answers: always the database, so that an end seen once is seen by all."""

    def __init__(
        self, store: TaskStore, scheduler: Scheduler, pools: PoolsView, clock: Clock
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._pools = pools
        self._clock = clock

    async def get(self, task_id: str) -> RecordedTask:
        """One task; raises `TaskUnknown`."""
        row = await self._store.get(task_id)
        if row is None:
            raise TaskUnknown(task_id)
        return self._recorded(row)

    async def page(
        self,
        state: TaskState | None,
        session_id: str | None,
        before: int | None,
        limit: int,
    ) -> HistoryPage:
        """At most `limit` tasks accepted before the sequence number `before`."""
        rows = await self._store.page(state, before, limit + 1, session_id)
        more = len(rows) > limit
        tasks = [self._recorded(row) for row in rows[:limit]]
        return HistoryPage(tasks, rows[limit - 1]["sequence"] if more else None)

    def _recorded(self, row: sqlite3.Row) -> RecordedTask:
        candidates = self._pools.replicas(row["pool_id"])
        forecast = self._scheduler.forecast(row["task_id"], self._clock.now(), candidates)
        if forecast is None:
            return RecordedTask(row, None, None)
        return RecordedTask(row, forecast.position, milliseconds(forecast.start_ms))
