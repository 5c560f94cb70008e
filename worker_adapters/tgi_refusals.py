"""The one table of Text Generation Inference's refusals: what each of its errors means.

Nearly all of them come inside an HTTP 200: its streaming routes answer before they
look at the request.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import msgspec

from contracts.errors import ErrorCode
from worker_adapters.answers import MALFORMED, quoted, retry_after_ms
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
    BUSY = auto()
    FAILED = auto()
    """The engine gave it up."""
    FOREIGN = auto()
    """It would not say that to a request of ours."""


KINDS = {
    "validation": Meaning.REFUSED,
    "template_error": Meaning.REFUSED,
    "missing_template_variable": Meaning.REFUSED,
    "tool_error": Meaning.REFUSED,
    "no fast tokenizer": Meaning.REFUSED,
    "overloaded": Meaning.BUSY,
    "healthcheck": Meaning.BUSY,
    "generation": Meaning.FAILED,
    "incomplete_generation": Meaning.FAILED,
    "incomplete_generation_stream": Meaning.FAILED,
    "stream_serialization_error": Meaning.FAILED,
}
"""By TGI's own `error_type`, which goes before the status."""

STATUSES = {
    400: Meaning.REFUSED,
    413: Meaning.REFUSED,
    422: Meaning.REFUSED,
    429: Meaning.BUSY,
    503: Meaning.BUSY,
    424: Meaning.FAILED,
    501: Meaning.FOREIGN,
}
"""Where there is no `error_type`: of the chat route, and of the web server before TGI.
Of the others, those from 500 on are failures, and the rest are foreign."""

TOO_LONG = re.compile(
    r"`inputs` tokens \+ `max_new_tokens` must be <="
    r"|`inputs` must have less than \d+ tokens"
    r"|`max_new_tokens` must be <="
)
"""Of the validations, those that are about the context."""


class Error(msgspec.Struct):
    """Why something was refused."""

    error: str
    error_type: str = ""


class ChatError(msgspec.Struct):
    """Why a chat was refused, within its stream."""

    message: str
    http_status_code: int = 500


def answered_error(status: int, body: bytes, retry_after: str | None = None) -> EngineError:
    """What an answer that is not 200 means."""
    try:
        error = msgspec.json.decode(body, type=Error)
    except MALFORMED:
        error = Error(f"HTTP {status} and no reason")
    return _meaning(status, error, retry_after)


def stream_error(payload: bytes) -> EngineError:
    """What an event with an `error` means."""
    try:
        error = msgspec.json.decode(payload, type=Error)
    except MALFORMED:
        error = Error("an error without a reason")
    return _meaning(500, error, None)


def chat_error(body: bytes) -> EngineError:
    """What the `error` of a chunk means."""
    try:
        error = msgspec.json.decode(body, type=ChatError)
    except MALFORMED:
        error = ChatError("an error without a reason")
    return _meaning(error.http_status_code, Error(error.message), None)


def _meaning(status: int, error: Error, retry_after: str | None) -> EngineError:
    said = quoted(error.error)
    otherwise = Meaning.FAILED if status >= 500 else Meaning.FOREIGN
    match KINDS.get(error.error_type) or STATUSES.get(status, otherwise):
        case Meaning.REFUSED:
            if TOO_LONG.search(error.error):
                return EngineRefused(said, code=ErrorCode.CONTEXT_EXCEEDED, status=status)
            return EngineRefused(said, code=ErrorCode.INVALID_PARAMS, status=status)
        case Meaning.BUSY:
            return EngineBusy(said, retry_after_ms=retry_after_ms(retry_after))
        case Meaning.FAILED:
            return EngineFailed(said)
        case Meaning.FOREIGN:
            return EngineProtocolError(f"HTTP {status}, {said}", status=status)
