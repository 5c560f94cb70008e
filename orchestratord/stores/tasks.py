"""Task rows: what is written at each step, each as one guarded statement.

An UPDATE names the state and attempt it expects; no row changed means that a
race was lost, and the method says so instead of guessing.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from contracts.tasks import Priority, TaskRequest, TaskState
from orchestratord.stores.database import Database

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
    finish_reason: str | None = None
    queue_ms: int | None = None
    first_token_ms: int | None = None
    decode_ms: int | None = None
    error_code: str | None = None
    error_message: str | None = None


class LostRace(Exception):
    """The row is no longer in the state this change was made for."""


class TaskStore:
    """The table of tasks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, task: NewTask) -> None:
        """Accept a task; on disk when this returns."""
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
        )
        await self._database.write(lambda connection: connection.execute(_INSERT, values))

    async def start(self, attempt: StartedAttempt) -> None:
        """queued -> running; raises `LostRace`."""
        await self._change(
            _START,
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
        await self._change(_READABLE, (attempt, reserved_event_id, task_id, attempt))

    async def requeue(self, task_id: str, attempt: int, last_event_id: int) -> None:
        """running -> queued for an attempt nobody read a token of; raises `LostRace`."""
        await self._change(_REQUEUE, (last_event_id, task_id, attempt))

    async def finish(self, task_id: str, outcome: Outcome) -> None:
        """Write the end of a task; raises `LostRace` when it has ended already."""
        values = (
            outcome.state.value,
            outcome.finished_ms,
            outcome.last_event_id,
            outcome.text,
            outcome.tokens_out,
            outcome.tokens_in,
            outcome.finish_reason,
            outcome.queue_ms,
            outcome.first_token_ms,
            outcome.decode_ms,
            outcome.error_code,
            outcome.error_message,
            task_id,
        )
        await self._change(_FINISH, values)

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
            lambda connection: connection.execute(_UNFINISHED).fetchall()
        )

    async def page(
        self, state: TaskState | None, before_sequence: int | None, limit: int
    ) -> list[sqlite3.Row]:
        """At most `limit` tasks, newest first, accepted before `before_sequence`."""
        values = {
            "state": state.value if state else None,
            "before": before_sequence,
            "limit": min(limit, _PAGE_MAX),
        }
        return await self._database.read(
            lambda connection: connection.execute(_PAGE, values).fetchall()
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
                lambda connection: connection.execute(_DELETE, (before_ms, _DELETE_GROUP)).rowcount
            )

    async def _change(self, statement: str, values: tuple[object, ...]) -> None:
        def change(connection: sqlite3.Connection) -> None:
            if connection.execute(statement, values).rowcount != 1:
                raise LostRace

        await self._database.write(change)


def priority_of(row: sqlite3.Row) -> Priority:
    """The queue class of a row."""
    return Priority(row["priority"])


_INSERT = """
INSERT INTO tasks (task_id, sequence, body_sha256, request, correlation_id, pool_id,
                   priority, seed, created_ms, deadline_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_START = """
UPDATE tasks
SET state = 'running', attempt = ?, replica_id = ?, engine = ?, engine_version = ?,
    model_digest = ?, started_ms = ?, last_event_id = ?
WHERE task_id = ? AND state = 'queued' AND attempt < ?
"""
_READABLE = """
UPDATE tasks SET readable = ?, last_event_id = ?
WHERE task_id = ? AND state = 'running' AND attempt = ?
"""
_REQUEUE = """
UPDATE tasks SET state = 'queued', last_event_id = ?
WHERE task_id = ? AND state = 'running' AND attempt = ? AND readable = 0
"""
_FINISH = """
UPDATE tasks
SET state = ?, finished_ms = ?, last_event_id = ?, text = ?, tokens_out = ?, tokens_in = ?,
    finish_reason = ?, queue_ms = ?, first_token_ms = ?, decode_ms = ?,
    error_code = ?, error_message = ?
WHERE task_id = ? AND finished_ms IS NULL
"""
_UNFINISHED = "SELECT * FROM tasks WHERE state IN ('queued', 'running') ORDER BY sequence"
# A page leaves out what is large: prompts and answers.
_PAGE = """
SELECT task_id, sequence, correlation_id, pool_id, priority, state, seed, created_ms, attempt,
    replica_id, engine, engine_version, model_digest, started_ms, finished_ms, finish_reason,
    tokens_in, tokens_out, queue_ms, first_token_ms, decode_ms, error_code, error_message,
    json_remove(request, '$.prompt', '$.messages', '$.inputs') AS request, NULL AS text
FROM tasks
WHERE (:state IS NULL OR state = :state) AND (:before IS NULL OR sequence < :before)
ORDER BY sequence DESC LIMIT :limit
"""
_DELETE = """
DELETE FROM tasks WHERE task_id IN (
    SELECT task_id FROM tasks WHERE finished_ms < ? ORDER BY finished_ms LIMIT ?
)
"""
