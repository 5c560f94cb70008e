"""Task rows: what is written at each step, each as one guarded statement.

An UPDATE names the state and attempt it expects; no row changed means that a
race was lost, and the method says so instead of guessing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from contracts.tasks import Priority, TaskRequest, TaskState
from orchestratord.domain.budgets import NOTHING, Amounts
from orchestratord.domain.sampling import Sampling
from orchestratord.errors import StorageBusy
from orchestratord.stores import sessions
from orchestratord.stores import task_statements as sql
from orchestratord.stores.database import Database
from orchestratord.stores.sessions import NO_SESSION, SessionHold, Settlement

DEFAULTS = Sampling()
"""Everything left to the engine."""
_PAGE_MAX = 500
_DELETE_GROUP = 500


@dataclass(frozen=True, slots=True)
class NewTask:
    """Everything known of a task when it is accepted; times in Unix ms."""

    task_id: str
    sequence: int
    body_sha256: bytes
    request: TaskRequest
    correlation_id: str
    pool_id: str
    seed: int
    created_ms: int
    prompt_tokens: int = 1
    """As it was counted or guessed at admission."""
    predicted_start_ms: int | None = None
    hold: Amounts = NOTHING
    """Of the budgets of its session."""
    sampling: Sampling = DEFAULTS
    """As it was resolved at admission."""
    sampler_profile_version: str | None = None
    """Of the profile it was resolved by."""

    @property
    def deadline_ms(self) -> int | None:
        """The Unix time at which the task is too late, ms."""
        allowed = self.request.deadline_ms
        return None if allowed is None else self.created_ms + allowed


@dataclass(frozen=True, slots=True)
class StartedAttempt:
    """One attempt, and where it runs; `last_event_id` is that of its `started` event."""

    task_id: str
    attempt: int
    replica_id: str
    engine: str
    engine_version: str | None
    model_digest: str | None
    started_ms: int
    last_event_id: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended; durations in ms, `text` is the whole output."""

    state: TaskState
    finished_ms: int
    last_event_id: int
    text: str
    tokens_out: int
    tokens_in: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    queue_ms: int | None = None
    first_token_ms: int | None = None
    decode_ms: int | None = None
    run_ms: int | None = None
    """Start to end: what a time budget is charged; not written."""
    error_code: str | None = None
    error_message: str | None = None
    result: bytes | None = None
    """An answer that is no text, as JSON."""


class LostRace(Exception):
    """The row is no longer in the state this change was made for."""


class TaskStore:
    """The table of tasks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, task: NewTask, session: SessionHold | None = None) -> None:
        """Accept a task, and hold what it may use of its session; on disk when this returns.

        Raises:
            StorageBusy: also where the session's row is behind what memory knows,
                since a settlement is still waiting for the disk.
        """
        values = (
            task.task_id,
            task.sequence,
            task.body_sha256,
            task.request.model_dump_json(exclude_unset=True),
            task.correlation_id,
            task.pool_id,
            task.request.priority.value,
            task.seed,
            task.created_ms,
            task.deadline_ms,
            task.request.session_id,
            *task.hold,
            task.prompt_tokens,
            task.predicted_start_ms,
            sampling_text(task.sampling),
            task.sampler_profile_version,
        )

        def write(connection: sqlite3.Connection) -> None:
            if session is not None:
                sessions.hold(connection, session)
            connection.execute(sql.INSERT, values)

        try:
            await self._database.write(write)
        except sqlite3.IntegrityError as error:
            if session is None:
                raise
            raise StorageBusy from error

    async def start(self, attempt: StartedAttempt) -> None:
        """queued -> running; raises `LostRace`."""
        await self._change(
            sql.START,
            (
                attempt.attempt,
                attempt.replica_id,
                attempt.engine,
                attempt.engine_version,
                attempt.model_digest,
                attempt.started_ms,
                attempt.last_event_id,
                attempt.task_id,
                attempt.attempt,
            ),
        )

    async def mark_readable(self, task_id: str, attempt: int, reserved_event_id: int) -> None:
        """Say that a reader may now see a token, so that this task never runs again.

        `reserved_event_id` is an id no event of this attempt will pass, so that
        ids go on rising after a crash.
        """
        await self._change(sql.READABLE, (attempt, reserved_event_id, task_id, attempt))

    async def requeue(
        self, task_id: str, attempt: int, last_event_id: int, resets: int = 0
    ) -> None:
        """running -> queued for an attempt nobody read a token of; raises `LostRace`."""
        await self._change(sql.REQUEUE, (last_event_id, resets, task_id, attempt))

    async def interrupted(self, task_id: str, attempt: int) -> None:
        """running -> queued for an attempt that this daemon's death cut; raises `LostRace`."""
        await self._change(sql.INTERRUPTED, (task_id, attempt))

    async def finish(
        self, task_id: str, outcome: Outcome, settlement: Settlement = NO_SESSION
    ) -> None:
        """Write the end of a task and settle it; raises `LostRace` when it has ended already."""
        values = (
            outcome.state.value,
            outcome.finished_ms,
            outcome.last_event_id,
            outcome.text,
            outcome.tokens_out,
            outcome.tokens_in,
            outcome.cached_tokens,
            outcome.finish_reason,
            outcome.queue_ms,
            outcome.first_token_ms,
            outcome.decode_ms,
            outcome.error_code,
            outcome.error_message,
            outcome.result,
            task_id,
        )

        def write(connection: sqlite3.Connection) -> None:
            _guarded(connection, sql.FINISH, values)
            sessions.settle(connection, task_id, settlement)

        await self._database.write(write, essential=True)

    async def extend_time(self, task_id: str, session_id: str, more_ms: int) -> None:
        """Hold more of its session's time budget for a task that runs.

        Raises:
            StorageBusy: also where the limit on disk has no room for it.
        """
        try:
            await self._database.write(
                lambda connection: sessions.extend_time(connection, session_id, task_id, more_ms),
                essential=True,
            )
        except sqlite3.IntegrityError as error:
            raise StorageBusy from error

    async def reserve_event_ids(self, through: Mapping[str, int]) -> None:
        """Say which id no event of each task has passed yet, so that ids rise after a crash."""
        rows = [(event_id, task_id) for task_id, event_id in through.items()]
        await self._database.write(
            lambda connection: connection.executemany(sql.RESERVE, rows), essential=True
        )

    async def settle_event_ids(self, last: Mapping[str, int]) -> None:
        """Say which event of each waiting task was the last, so that a clean stop leaves no gap."""
        rows = [(event_id, task_id) for task_id, event_id in last.items()]
        await self._database.write(
            lambda connection: connection.executemany(sql.LAST_EVENT, rows), essential=True
        )

    async def get(self, task_id: str) -> sqlite3.Row | None:
        """The row of one task."""
        return await self._database.read(
            lambda connection: connection.execute(
                "SELECT * FROM tasks WHERE task_id = ?", (task_id,)
            ).fetchone()
        )

    async def unfinished(self) -> list[sqlite3.Row]:
        """Queued and running tasks in order of acceptance."""
        return await self._database.read(
            lambda connection: connection.execute(sql.UNFINISHED).fetchall()
        )

    async def page(
        self,
        state: TaskState | None,
        before_sequence: int | None,
        limit: int,
        session_id: str | None = None,
    ) -> list[sqlite3.Row]:
        """At most `limit` tasks, newest first, accepted before `before_sequence`."""
        values = {
            "state": state.value if state else None,
            "session": session_id,
            "before": before_sequence,
            "limit": min(limit, _PAGE_MAX),
        }
        query = sql.PAGE if session_id is None else sql.PAGE_OF_SESSION
        return await self._database.read(
            lambda connection: connection.execute(query, values).fetchall()
        )

    async def last_sequence(self) -> int:
        """The highest sequence number given out."""
        row = await self._database.read(
            lambda connection: connection.execute("SELECT max(sequence) FROM tasks").fetchone()
        )
        return row[0] or 0

    async def delete_finished(self, before_ms: int) -> None:
        """Remove tasks that ended before a Unix time in ms, in groups that block no one long."""
        deleted = _DELETE_GROUP
        while deleted == _DELETE_GROUP:
            deleted = await self._database.write(
                lambda connection: (
                    connection.execute(sql.DELETE, (before_ms, _DELETE_GROUP)).rowcount
                ),
                essential=True,
            )

    async def _change(self, statement: str, values: tuple[object, ...]) -> None:
        await self._database.write(
            lambda connection: _guarded(connection, statement, values), essential=True
        )


def _guarded(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> None:
    if connection.execute(statement, values).rowcount != 1:
        raise LostRace


def sampling_text(sampling: Sampling) -> str:
    """As it is written down: what is left to the engine is left out."""
    told = {name: value for name, value in asdict(sampling).items() if value is not None}
    return json.dumps(told)


def sampling_of_row(row: sqlite3.Row) -> Sampling:
    """As it was written down."""
    return Sampling(**json.loads(row["sampling"]))


def priority_of(row: sqlite3.Row) -> Priority:
    """The queue class of a row."""
    return Priority(row["priority"])
