"""A task row as its client reads it."""

from __future__ import annotations

import sqlite3

from contracts.errors import RETRIABLE, ErrorCode
from contracts.tasks import (
    TERMINAL,
    Placement,
    Priority,
    TaskError,
    TaskRequest,
    TaskState,
    TaskView,
    Usage,
)
from orchestratord.runtime.task_history import RecordedTask


def stream_url(task_id: str) -> str:
    """The path of a task's event stream."""
    return f"/v1/tasks/{task_id}/stream"


def task_view(task: RecordedTask, *, with_text: bool) -> TaskView:
    """The row, with its place in line; the text only where it was asked for."""
    row = task.row
    request = TaskRequest.model_validate_json(row["request"])
    state = TaskState(row["state"])
    return TaskView(
        task_id=row["task_id"],
        session_id=request.session_id,
        state=state,
        workload=request.workload,
        model=request.model or request.model_ref,
        priority=Priority(row["priority"]),
        pool_id=row["pool_id"],
        queue_position=task.queue_position if state is TaskState.QUEUED else None,
        predicted_start_ms=None,
        attempt=row["attempt"],
        placement=_placement(row),
        usage=_usage(row) if state in TERMINAL else None,
        finish_reason=row["finish_reason"],
        text=row["text"] if with_text else None,
        error=_error(row),
        seed=row["seed"],
        correlation_id=row["correlation_id"],
        metadata=request.metadata or {},
        created_ms=row["created_ms"],
        started_ms=row["started_ms"],
        finished_ms=row["finished_ms"],
        stream_url=stream_url(row["task_id"]),
    )


def _placement(row: sqlite3.Row) -> Placement | None:
    if row["replica_id"] is None:
        return None
    return Placement(
        pool_id=row["pool_id"],
        replica_id=row["replica_id"],
        engine=row["engine"],
        engine_version=row["engine_version"],
        model_digest=row["model_digest"],
    )


def _usage(row: sqlite3.Row) -> Usage:
    return Usage(
        tokens_in=row["tokens_in"] or 0,
        tokens_out=row["tokens_out"] or 0,
        queue_ms=row["queue_ms"],
        first_token_ms=row["first_token_ms"],
        decode_ms=row["decode_ms"],
    )


def _error(row: sqlite3.Row) -> TaskError | None:
    if row["error_code"] is None:
        return None
    code = ErrorCode(row["error_code"])
    return TaskError(code=code, message=row["error_message"] or code, retriable=code in RETRIABLE)
