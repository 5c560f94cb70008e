"""From an ending to what is written down, and to the terminal event."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import MESSAGE_MAX, RETRIABLE, ErrorCode
from contracts.events import EndEvent, ErrorEvent
from contracts.sessions import Budgets
from contracts.tasks import TaskState
from orchestratord.domain.task_state import Move
from orchestratord.runtime.attempt import Attempt
from orchestratord.runtime.ending import Canceled, Failed, Succeeded
from orchestratord.stores.tasks import Outcome

Final = Succeeded | Failed | Canceled

MOVES: dict[type[Final], Move] = {
    Succeeded: Move.SUCCEED,
    Failed: Move.FAIL,
    Canceled: Move.CANCEL,
}
_STATES: dict[type[Final], TaskState] = {
    Succeeded: TaskState.SUCCEEDED,
    Failed: TaskState.FAILED,
    Canceled: TaskState.CANCELED,
}


@dataclass(frozen=True, slots=True)
class Moment:
    """The instant a task ends: monotonic seconds, and Unix ms."""

    now: float
    unix_ms: int


def outcome_of(
    ending: Final, attempt: Attempt | None, accepted_at: float, last_event_id: int, at: Moment
) -> Outcome:
    """The row of a task that ended; `last_event_id` is that of its terminal event."""
    succeeded = ending if isinstance(ending, Succeeded) else None
    progress = attempt.progress if attempt else None
    started = progress.started_at if progress else None
    first = progress.first_token_at if progress else None
    last = progress.last_token_at if progress else None
    generated = progress.tokens_out if progress else 0
    # Of an attempt that gave no token nobody knows how much was evaluated.
    evaluated = progress if progress and (succeeded or generated) else None
    code, message = _error_of(ending)
    return Outcome(
        state=_STATES[type(ending)],
        finished_ms=at.unix_ms,
        last_event_id=last_event_id,
        text=attempt.text if attempt else "",
        tokens_out=succeeded.tokens_out if succeeded else generated,
        tokens_in=evaluated.prompt_tokens if evaluated else None,
        cached_tokens=evaluated.cached_tokens if evaluated else None,
        finish_reason=succeeded.finish_reason if succeeded else None,
        result=succeeded.result if succeeded else None,
        queue_ms=_elapsed_ms(accepted_at, at.now if started is None else started),
        first_token_ms=_elapsed_ms(started, first),
        decode_ms=_elapsed_ms(first, last),
        run_ms=_elapsed_ms(started, at.now),
        error_code=code,
        error_message=message,
    )


def terminal_event(outcome: Outcome, budgets: Budgets | None = None) -> EndEvent | ErrorEvent:
    """The last event of the stream, saying what the row says; `budgets` of its session.

    A result is JSON already, and put into it when it is encoded.
    """
    if outcome.error_code is not None:
        code = ErrorCode(outcome.error_code)
        return ErrorEvent(
            code=code, message=outcome.error_message or code, retriable=code in RETRIABLE
        )
    assert outcome.finish_reason is not None
    return EndEvent(
        finish_reason=outcome.finish_reason,
        tokens_in=outcome.tokens_in or 0,
        tokens_out=outcome.tokens_out,
        queue_ms=outcome.queue_ms or 0,
        first_token_ms=outcome.first_token_ms,
        decode_ms=outcome.decode_ms,
        budgets=budgets,
    )


def _error_of(ending: Final) -> tuple[str | None, str | None]:
    match ending:
        case Failed(code, message):
            return code.value, message[:MESSAGE_MAX]
        case Canceled(message=message):
            return ErrorCode.CANCELED.value, message
        case Succeeded():
            return None, None


def _elapsed_ms(begin: float | None, end: float | None) -> int | None:
    return None if begin is None or end is None else max(0, round((end - begin) * 1000))
