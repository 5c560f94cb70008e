"""Tasks as they are written down, with their place in line where they still wait."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from contracts.tasks import TaskState
from orchestratord.errors import TaskUnknown
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.stores.tasks import TaskStore


@dataclass(frozen=True, slots=True)
class RecordedTask:
    """A row, and the number of tasks ahead of it: None once it has left the queue."""

    row: sqlite3.Row
    queue_position: int | None


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Tasks newest first; `next_before` is the sequence number the next page begins under."""

    tasks: list[RecordedTask]
    next_before: int | None


class TaskHistory:
    """What GET answers: always the database, so that an end seen once is seen by all."""

    def __init__(self, store: TaskStore, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    async def get(self, task_id: str) -> RecordedTask:
        """One task; raises `TaskUnknown`."""
        row = await self._store.get(task_id)
        if row is None:
            raise TaskUnknown(task_id)
        return self._recorded(row)

    async def page(self, state: TaskState | None, before: int | None, limit: int) -> HistoryPage:
        """At most `limit` tasks accepted before the sequence number `before`."""
        rows = await self._store.page(state, before, limit + 1)
        more = len(rows) > limit
        tasks = [self._recorded(row) for row in rows[:limit]]
        return HistoryPage(tasks, rows[limit - 1]["sequence"] if more else None)

    def _recorded(self, row: sqlite3.Row) -> RecordedTask:
        return RecordedTask(row, self._dispatcher.position(row["task_id"]))
