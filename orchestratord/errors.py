"""Why a task is refused, one class a reason.

Refusal (contracts)
  |- TaskUnknown, TaskConflict, LogGone, ResumeInvalid      about one task
  |- ModelUnknown, ContextExceeded, NotServed               about what it asks
  |- QueueFull, PoolUnready, PoolUnavailable, PoolDraining  about the pool
  `- StorageBusy, StorageFull, ShuttingDown                 about this daemon
"""

from __future__ import annotations

from contracts.errors import ErrorCode, Refusal

POOL_RETRY_MS = 1_000
QUEUE_RETRY_MS = 1_000
STORAGE_RETRY_MS = 500


class TaskUnknown(Refusal):
    """No task has this id, or it is past its retention."""

    def __init__(self, task_id: str) -> None:
        super().__init__(ErrorCode.NOT_FOUND, f"no task {task_id}")


class TaskConflict(Refusal):
    """The id belongs to a task with another body."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            ErrorCode.CONFLICT,
            f"task {task_id} exists with another body; use a new task_id for new work",
        )


class LogGone(Refusal):
    """The events asked for are no longer kept."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            ErrorCode.GONE,
            f"the events of task {task_id} are no longer kept; read GET /v1/tasks/{task_id}",
        )


class ResumeInvalid(Refusal):
    """Last-Event-ID is not a number this log has reached."""

    def __init__(self, value: str) -> None:
        super().__init__(
            ErrorCode.INVALID_PARAMS,
            f"Last-Event-ID {value[:32]!r} is not an event id of this task",
            details={"field": "Last-Event-ID"},
        )


class ModelUnknown(Refusal):
    """No pool serves what was asked for."""

    def __init__(self, asked: str, known: list[str]) -> None:
        served = ", ".join(known[:8]) or "none"
        super().__init__(
            ErrorCode.MODEL_UNKNOWN, f"no pool serves {asked}; models served: {served}"
        )


class ContextExceeded(Refusal):
    """The task needs more context than a slot of the pool has."""

    def __init__(self, pool_id: str, needed: int, ctx: int) -> None:
        super().__init__(
            ErrorCode.CONTEXT_EXCEEDED,
            f"the task needs {needed} tokens of context and pool {pool_id} serves {ctx};"
            " lower max_tokens or shorten the prompt",
            pool_id=pool_id,
            details={"needed_tokens": needed, "ctx": ctx},
        )


class NotServed(Refusal):
    """A field that is valid and that this version does not obey."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(
            ErrorCode.INVALID_PARAMS,
            f"{field}: not served by this version ({reason}); leave it out",
            details={"field": field, "reason": reason},
        )


class QueueFull(Refusal):
    """The pool's queue holds as many tasks as it may."""

    def __init__(self, pool_id: str, capacity: int) -> None:
        super().__init__(
            ErrorCode.QUEUE_FULL,
            f"the queue of pool {pool_id} is full ({capacity} tasks)",
            pool_id=pool_id,
            retry_after_ms=QUEUE_RETRY_MS,
            policy_label="reject",
        )


class PoolUnready(Refusal):
    """No replica has ever been ready and none is being started."""

    def __init__(self, pool_id: str) -> None:
        super().__init__(
            ErrorCode.POOL_UNREADY,
            f"pool {pool_id} has no replica and none is being started",
            pool_id=pool_id,
            retry_after_ms=POOL_RETRY_MS,
        )


class PoolUnavailable(Refusal):
    """Every replica has given up for now, or for good."""

    def __init__(self, pool_id: str, why: str | None) -> None:
        super().__init__(
            ErrorCode.POOL_UNAVAILABLE,
            f"pool {pool_id} is not available: {why or 'every replica has failed'}",
            pool_id=pool_id,
            retry_after_ms=POOL_RETRY_MS,
        )


class PoolDraining(Refusal):
    """An operator is draining the pool."""

    def __init__(self, pool_id: str) -> None:
        super().__init__(
            ErrorCode.POOL_DRAINING,
            f"pool {pool_id} is draining and takes no new task",
            pool_id=pool_id,
            retry_after_ms=POOL_RETRY_MS,
        )


class StorageBusy(Refusal):
    """The database did not take a write in time; nothing was kept."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.STORAGE_BUSY,
            "the database is locked or too slow; try again",
            retry_after_ms=STORAGE_RETRY_MS,
        )


class StorageFull(Refusal):
    """The disk under state_dir has no room."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.STORAGE_FULL,
            "the disk under state_dir is full; free some space",
            retry_after_ms=STORAGE_RETRY_MS,
        )


class ShuttingDown(Refusal):
    """The daemon is stopping; accepted tasks live on."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.SHUTTING_DOWN,
            "orchestratord is stopping; accepted tasks go on after its next start",
            retry_after_ms=QUEUE_RETRY_MS,
        )
