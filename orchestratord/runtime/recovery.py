"""Starting is recovering: what an earlier life of the daemon left behind.

Queued tasks go back in line in their order.  A running one goes back too if no
reader can have seen a token of it, and ends INTERRUPTED if one can.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import structlog

from contracts.errors import ErrorCode
from contracts.tasks import TaskRequest, TaskState
from orchestratord.clock import Clock
from orchestratord.domain.admission import PoolSpec
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.ending import Failed
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.outcome import Moment, outcome_of, terminal_event
from orchestratord.stores.tasks import NewTask, TaskStore

log = structlog.get_logger()


class Recovery:
    """One pass over the unfinished tasks, before anything is served."""

    def __init__(
        self, store: TaskStore, shelf: LogShelf, clock: Clock, dispatcher: Dispatcher
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._clock = clock
        self._dispatcher = dispatcher

    async def run(self, specs: Sequence[PoolSpec]) -> None:
        """Take up every unfinished task, or end it."""
        by_id = {spec.pool_id: spec for spec in specs}
        rows = await self._store.unfinished()
        for row in rows:
            spec = by_id.get(row["pool_id"])
            if spec is None:
                why = f"pool {row['pool_id']} is no longer configured"
                await self._end(row, Failed(ErrorCode.POOL_UNAVAILABLE, why))
            elif row["readable"]:
                why = "orchestratord stopped while this task was being answered"
                await self._end(row, Failed(ErrorCode.INTERRUPTED, why))
            else:
                await self._restore(row, spec)
        if rows:
            log.info("tasks_recovered", count=len(rows))

    async def _restore(self, row: sqlite3.Row, spec: PoolSpec) -> None:
        new = _new_task(row)
        if row["state"] == TaskState.RUNNING:
            await self._store.requeue(new.task_id, row["attempt"], row["last_event_id"])
        self._dispatcher.take_up(
            new, spec, self._accepted_at(row), row["attempt"], row["last_event_id"] + 1
        )

    async def _end(self, row: sqlite3.Row, ending: Failed) -> None:
        """Finish the row, and leave a log with the terminal event for who comes back."""
        task_id, event_id = row["task_id"], row["last_event_id"] + 1
        at = Moment(self._clock.now(), self._clock.unix_ms())
        outcome = outcome_of(ending, None, self._accepted_at(row), event_id, at)
        await self._store.finish(task_id, outcome)
        self._shelf.open(task_id, event_id).append("error", terminal_event(outcome))
        self._shelf.finished(task_id, at.now)

    def _accepted_at(self, row: sqlite3.Row) -> float:
        """The acceptance on today's monotonic clock; a wall clock set back counts as no time."""
        created_ms: int = row["created_ms"]
        age_ms = max(0, self._clock.unix_ms() - created_ms)
        return self._clock.now() - age_ms / 1000


def _new_task(row: sqlite3.Row) -> NewTask:
    return NewTask(
        task_id=row["task_id"],
        sequence=row["sequence"],
        body_sha256=row["body_sha256"],
        request=TaskRequest.model_validate_json(row["request"]),
        correlation_id=row["correlation_id"],
        pool_id=row["pool_id"],
        seed=row["seed"],
        created_ms=row["created_ms"],
    )
