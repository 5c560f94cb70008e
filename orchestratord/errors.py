"""Why a task is refused, one class a reason.

Refusal (contracts)
  |- TaskUnknown, TaskConflict, LogGone, ResumeInvalid      about one task
  |- ModelUnknown, ContextExceeded, Unable, ProfileUnknown  about what it asks
  |- DeadlineUnmet, QueueFull                               about the queue
  |- PoolUnready, PoolUnavailable, PoolDraining, StrictUnready
  |                                                         about the pool
  |- SessionUnknown, SessionsFull, SessionTurnsExhausted, BudgetExhausted
  |                                                         about its session
  `- StorageBusy, StorageFull, ShuttingDown                 about this daemon
"""

from __future__ import annotations

from contracts.errors import ErrorCode, Refusal

POOL_RETRY_MS = 1_000
QUEUE_RETRY_MS = 1_000
SESSIONS_RETRY_MS = 5_000
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

    def __init__(self, asked: str, known: list[str], pools: list[str] | None = None) -> None:
        """`pools`: those there are, where a pool was asked for."""
        served = ", ".join(known[:8]) or "none"
        served += f"; pools: {', '.join(pools[:8]) or 'none'}" if pools is not None else ""
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


class Unable(Refusal):
    """What is asked for is valid, and nothing here can do it."""

    def __init__(self, field: str, reason: str, remedy: str, pool_id: str | None = None) -> None:
        super().__init__(
            ErrorCode.INVALID_PARAMS,
            f"{field}: {reason}; {remedy}",
            pool_id=pool_id,
            details={"field": field, "reason": reason},
        )


class ProfileUnknown(Refusal):
    """There is no sampler profile of this version."""

    def __init__(self, version: str, known: list[str]) -> None:
        shown = ", ".join(known[:16])
        super().__init__(
            ErrorCode.INVALID_PARAMS,
            f"sampler_profile_version: there is no {version!r}; known: {shown}",
            details={
                "field": "sampler_profile_version",
                "reason": "there is no such profile",
                "known": known,
            },
        )


class DeadlineUnmet(Refusal):
    """The task would be late however well things went."""

    def __init__(self, pool_id: str, deadline_ms: int, predicted_ms: int) -> None:
        super().__init__(
            ErrorCode.DEADLINE_UNMET,
            f"pool {pool_id} would need about {predicted_ms} ms and deadline_ms is {deadline_ms};"
            " allow more time, lower max_tokens, or come back when the queue is shorter",
            pool_id=pool_id,
            details={"predicted_ms": predicted_ms, "deadline_ms": deadline_ms},
        )


class QueueFull(Refusal):
    """The pool's queue holds as many tasks as it may; `room_in_ms` is None where not known."""

    def __init__(self, pool_id: str, capacity: int, policy: str, room_in_ms: int | None) -> None:
        super().__init__(
            ErrorCode.QUEUE_FULL,
            f"the queue of pool {pool_id} is full ({capacity} tasks)",
            pool_id=pool_id,
            retry_after_ms=QUEUE_RETRY_MS if room_in_ms is None else room_in_ms,
            policy_label=policy,
        )


class SessionUnknown(Refusal):
    """There is no such session, or it has ended."""

    def __init__(self, session_id: str) -> None:
        super().__init__(ErrorCode.NOT_FOUND, f"no session {session_id}; it may have ended")


class SessionsFull(Refusal):
    """As many sessions live as may."""

    def __init__(self, most: int) -> None:
        super().__init__(
            ErrorCode.ADMISSION_REJECT,
            f"{most} sessions are open, which is the most; delete some, or let them end",
            retry_after_ms=SESSIONS_RETRY_MS,
            policy_label="sessions",
        )


class SessionTurnsExhausted(Refusal):
    """The session has run as many tasks as it may."""

    def __init__(self, session_id: str, max_turns: int) -> None:
        super().__init__(
            ErrorCode.SESSION_TURNS_EXHAUSTED,
            f"session {session_id} has had its {max_turns} turns; begin a new session, or raise"
            f" max_turns with PUT /v1/sessions/{session_id}",
            details={"max_turns": max_turns},
        )


class BudgetExhausted(Refusal):
    """A budget of the session cannot bear the task; `cost` is counted in billionths."""

    def __init__(self, session_id: str, budget: str, wanted: int, remaining: int) -> None:
        is_cost = budget == "cost"
        wants = wanted / 1e9 if is_cost else wanted
        left = remaining / 1e9 if is_cost else remaining
        super().__init__(
            ErrorCode.BUDGET_EXHAUSTED,
            f"the task may need {wants} of budget `{budget}` and session {session_id} has"
            f" {left} left; lower max_tokens, or raise the budget with PUT"
            f" /v1/sessions/{session_id}",
            details={"budget": budget, "wanted": wants, "remaining": left},
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


class StrictUnready(Refusal):
    """A strict task, and no replica serves yet that could prove what it gives."""

    def __init__(self, pool_id: str) -> None:
        reason = "no replica serves yet, so that nothing proves what it gives"
        super().__init__(
            ErrorCode.POOL_UNREADY,
            f"determinism: strict cannot be promised by pool {pool_id} now: {reason};"
            " try again once one is ready",
            pool_id=pool_id,
            retry_after_ms=POOL_RETRY_MS,
            details={"field": "determinism", "reason": reason},
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
