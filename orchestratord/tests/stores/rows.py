"""Tasks to write down."""

from __future__ import annotations

from typing import Any

from contracts.tasks import TaskState
from orchestratord.stores.tasks import NewTask, Outcome, StartedAttempt
from orchestratord.tests.builders import task_request


def id_of(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def new_task(number: int, **fields: Any) -> NewTask:
    return NewTask(
        task_id=id_of(number),
        sequence=number,
        body_sha256=b"\0" * 32,
        request=task_request(**fields),
        correlation_id="c-1",
        pool_id="chat",
        seed=7,
        created_ms=1_000,
    )


def started(number: int, attempt: int = 1) -> StartedAttempt:
    return StartedAttempt(id_of(number), attempt, "chat/0", "llamacpp", "b100", None, 1_500, 1)


def outcome(state: TaskState = TaskState.SUCCEEDED, finished_ms: int = 2_000) -> Outcome:
    code = None if state is TaskState.SUCCEEDED else "CANCELED"
    return Outcome(state, finished_ms, 3, "a b", 2, error_code=code)
