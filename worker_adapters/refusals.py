"""What kind of error an engine's answer is, and the exception for each kind.

A dialect decides by its own words and codes first; where they tell nothing, the
HTTP status does, and means the same for every engine.
"""

from __future__ import annotations

from enum import Enum, auto

from contracts.errors import ErrorCode
from worker_adapters.answers import retry_after_ms
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineProtocolError,
    EngineRefused,
)


class Meaning(Enum):
    """What kind of error it is."""

    REFUSED = auto()
    """The request is wrong."""
    TOO_LONG = auto()
    """Its prompt leaves no room in the context."""
    BUSY = auto()
    """It takes nothing now."""
    FAILED = auto()
    """The engine gave it up."""
    FOREIGN = auto()
    """It would not say that to a request of ours."""


STATUSES = {
    400: Meaning.REFUSED,
    413: Meaning.REFUSED,
    422: Meaning.REFUSED,
    424: Meaning.FAILED,
    429: Meaning.BUSY,
    501: Meaning.FOREIGN,
    503: Meaning.BUSY,
}


def meaning_of(status: int) -> Meaning:
    """What a status alone means: beyond the table, a failure from 500 on, else foreign."""
    return STATUSES.get(status, Meaning.FAILED if status >= 500 else Meaning.FOREIGN)


def refusal_of(
    meaning: Meaning, said: str, status: int, retry_after: str | None = None
) -> EngineError:
    """The error of an answer of this meaning.

    Args:
        said: the engine's own words, quoted.
        retry_after: the header of that name.
    """
    match meaning:
        case Meaning.REFUSED:
            return EngineRefused(said, code=ErrorCode.INVALID_PARAMS, status=status)
        case Meaning.TOO_LONG:
            return EngineRefused(said, code=ErrorCode.CONTEXT_EXCEEDED, status=status)
        case Meaning.BUSY:
            return EngineBusy(said, retry_after_ms=retry_after_ms(retry_after))
        case Meaning.FAILED:
            return EngineFailed(said)
        case Meaning.FOREIGN:
            return EngineProtocolError(f"HTTP {status}, {said}", status=status)
