"""A task row as its client reads it."""

from __future__ import annotations

import sqlite3

import msgspec
from starlette.responses import Response

from contracts.errors import RETRIABLE, ErrorCode
from contracts.service.envelope import contract_response
from contracts.tasks import (
    TERMINAL,
    Placement,
    Priority,
    TaskError,
    TaskState,
    TaskView,
    Usage,
    Workload,
)
from orchestratord.domain.abilities import GENERATED
from orchestratord.runtime.results import with_result
from orchestratord.runtime.task_history import RecordedTask


def stream_url(task_id: str) -> str:
    """The path of a task's event stream."""
    return f"/v1/tasks/{task_id}/stream"


class _Asked(msgspec.Struct):
    """The part of a stored request that its client is shown again."""

    workload: str = Workload.COMPLETION
    model: str | None = None
    model_ref: str | None = None
    session_id: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


_decode_asked = msgspec.json.Decoder(_Asked).decode


def task_view(task: RecordedTask) -> TaskView:
    """The row, with its place in line."""
    row = task.row
    request = _decode_asked(row["request"])
    state = TaskState(row["state"])
    return TaskView(
        task_id=row["task_id"],
        session_id=request.session_id,
        state=state,
        workload=Workload(request.workload),
        model=request.model or request.model_ref,
        priority=Priority(row["priority"]),
        pool_id=row["pool_id"],
        queue_position=task.queue_position if state is TaskState.QUEUED else None,
        predicted_start_ms=task.predicted_start_ms if state is TaskState.QUEUED else None,
        attempt=row["attempt"],
        placement=_placement(row),
        usage=_usage(row) if state in TERMINAL else None,
        finish_reason=row["finish_reason"],
        text=row["text"] if Workload(request.workload) in GENERATED else None,
        error=_error(row),
        seed=row["seed"],
        sampler_profile_version=row["sampler_profile_version"],
        correlation_id=row["correlation_id"],
        metadata=request.metadata,
        created_ms=row["created_ms"],
        started_ms=row["started_ms"],
        finished_ms=row["finished_ms"],
        stream_url=stream_url(row["task_id"]),
    )


def task_response(task: RecordedTask) -> Response:
    """The answer to a GET; a result is JSON already, and no model is made of it."""
    view, result = task_view(task), task.row["result"]
    if result is None:
        return contract_response(view)
    return Response(with_result(view, result.encode()), media_type="application/json")


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
