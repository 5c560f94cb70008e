"""Starting is recovering: what an earlier life of the daemon left behind.

Sessions come first, since tasks hold some of their budgets.  Queued tasks go
back in line in their order.  A running one goes back too if no reader can have
seen a token of it, and ends INTERRUPTED if one can; one that has been started
too often without an end is given up.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence

import structlog

from contracts.errors import ErrorCode
from contracts.tasks import Priority, TaskRequest, TaskState
from orchestratord.clock import Clock
from orchestratord.domain.abilities import output_bound
from orchestratord.domain.budgets import Amounts
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.prediction import Work
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.sessions import Session
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.ending import Failed
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.outcome import Moment, outcome_of, terminal_event
from orchestratord.runtime.settling import budgets_of, settlement_of
from orchestratord.stores.sessions import SessionStore, session_of
from orchestratord.stores.tasks import NewTask, TaskStore, sampling_of_row

log = structlog.get_logger()

INTERRUPTIONS_MAX = 10
"""Deaths of this daemon that one task may be running at; then it may be their cause."""


class Recovery:
    """One pass over the unfinished tasks, before anything is served."""

    def __init__(
        self,
        store: TaskStore,
        sessions: SessionStore,
        shelf: LogShelf,
        clock: Clock,
        scheduler: Scheduler,
        dispatcher: Dispatcher,
    ) -> None:
        self._store = store
        self._session_store = sessions
        self._shelf = shelf
        self._clock = clock
        self._scheduler = scheduler
        self._dispatcher = dispatcher
        self._latest = -math.inf

    async def run(self, specs: Sequence[PoolSpec]) -> None:
        """Take up every session and every unfinished task, or end it."""
        for row in await self._session_store.all():
            self._scheduler.sessions.restore(
                session_of(row, self._clock.now(), self._clock.unix_ms())
            )
        by_id = {spec.pool_id: spec for spec in specs}
        rows = await self._store.unfinished()
        for row in rows:
            await self._take_up(row, by_id.get(row["pool_id"]))
        if rows:
            log.info("tasks_recovered", count=len(rows))

    async def _take_up(self, row: sqlite3.Row, spec: PoolSpec | None) -> None:
        new = _new_task(row)
        scheduled = self._scheduled(row, new)
        if scheduled.session is not None:
            scheduled.session.tasks.add(new.task_id)
        if spec is None:
            why = f"pool {row['pool_id']} is no longer configured"
            await self._end(row, scheduled, Failed(ErrorCode.POOL_UNAVAILABLE, why))
        elif row["readable"]:
            why = "orchestratord stopped while this task was being answered"
            await self._end(row, scheduled, Failed(ErrorCode.INTERRUPTED, why))
        elif row["interruptions"] >= INTERRUPTIONS_MAX:
            why = f"orchestratord died {row['interruptions']} times while this task was running"
            await self._end(row, scheduled, Failed(ErrorCode.POISON, why))
        else:
            await self._restore(row, new, scheduled, spec)

    async def _restore(
        self, row: sqlite3.Row, new: NewTask, scheduled: ScheduledTask, spec: PoolSpec
    ) -> None:
        if row["state"] == TaskState.RUNNING:
            await self._store.interrupted(new.task_id, row["attempt"])
        self._dispatcher.take_up(
            new,
            spec,
            scheduled,
            first_event_id=row["last_event_id"] + 1,
            resets=row["resets"],
        )

    async def _end(self, row: sqlite3.Row, scheduled: ScheduledTask, ending: Failed) -> None:
        """Finish the row, and leave a log with the terminal event for who comes back."""
        task_id, event_id = row["task_id"], row["last_event_id"] + 1
        at = Moment(self._clock.now(), self._clock.unix_ms())
        outcome = outcome_of(ending, None, scheduled.accepted_at, event_id, at)
        settlement = settlement_of(self._scheduler, scheduled, None, frozenset(), outcome, at)
        await self._store.finish(task_id, outcome, settlement)
        event = terminal_event(outcome, budgets_of(scheduled.session))
        self._shelf.open(task_id, event_id).append("error", event)
        self._shelf.finished(task_id, at.now)

    def _scheduled(self, row: sqlite3.Row, new: NewTask) -> ScheduledTask:
        accepted_at, request = self._accepted_at(row), new.request
        max_tokens = output_bound(request)
        deadline = request.deadline_ms
        return ScheduledTask(
            task_id=new.task_id,
            pool_id=new.pool_id,
            priority=Priority(request.priority),
            sequence=new.sequence,
            accepted_at=accepted_at,
            work=Work.of(new.prompt_tokens, max_tokens, request.expected_tokens),
            max_tokens=max_tokens,
            deadline=None if deadline is None else accepted_at + deadline / 1000,
            session=self._session(request.session_id),
            hold=new.hold,
            attempt=row["attempt"],
        )

    def _session(self, session_id: str | None) -> Session | None:
        return None if session_id is None else self._scheduler.sessions.of_task(session_id)

    def _accepted_at(self, row: sqlite3.Row) -> float:
        """The acceptance on today's monotonic clock; a wall clock set back counts as no time.

        Rows come in the order of their acceptance, and no wall clock makes a later
        one older than the one before.
        """
        created_ms: int = row["created_ms"]
        age_ms = max(0, self._clock.unix_ms() - created_ms)
        self._latest = max(self._latest, self._clock.now() - age_ms / 1000)
        return self._latest


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
        prompt_tokens=row["prompt_tokens"],
        predicted_start_ms=row["predicted_start_ms"],
        hold=Amounts(row["held_tokens"], row["held_time_ms"], row["held_cost"]),
        sampling=sampling_of_row(row),
        sampler_profile_version=row["sampler_profile_version"],
    )
