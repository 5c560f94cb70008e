"""The one table of Text Generation Inference's refusals: what each of its errors means.

Nearly all of them come inside an HTTP 200: its streaming routes answer before they
look at the request.
"""

from __future__ import annotations

import re

import msgspec

from worker_adapters.answers import MALFORMED, quoted
from worker_adapters.errors import EngineError
from worker_adapters.refusals import Meaning, meaning_of, refusal_of

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
"""By TGI's own `error_type`, which goes before the status.  The chat route has none, nor has
the web server before TGI."""

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
    meaning = KINDS.get(error.error_type) or meaning_of(status)
    if meaning is Meaning.REFUSED and TOO_LONG.search(error.error):
        meaning = Meaning.TOO_LONG
    return refusal_of(meaning, quoted(error.error), status, retry_after)
