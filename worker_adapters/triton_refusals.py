"""The one table of Triton's refusals: what its statuses and its words mean.

Triton has one status for many things and no codes, so its words decide first.  What
the server itself refuses is JSON; what a model fails with is an event, also under 400.
"""

from __future__ import annotations

import re

import msgspec

from worker_adapters.answers import MALFORMED, quoted
from worker_adapters.errors import EngineError
from worker_adapters.refusals import Meaning, meaning_of, refusal_of

EVENT = b"data:"


WORDS = (
    (r"exceeds? (the )?max(imum)? (input|model|context|sequence) length", Meaning.TOO_LONG),
    (r"maximum context length", Meaning.TOO_LONG),
    (r"exceeds maximum queue size|request timeout expired|server (is )?exiting", Meaning.BUSY),
    (r"unknown model|model version not ready|is not available|is not ready", Meaning.BUSY),
    (r"generate expects model to produce exactly 1 response", Meaning.FOREIGN),
    (r"doesn't support models with decoupled transaction policy", Meaning.FOREIGN),
    (r"failed to parse the request json buffer|unable to parse '", Meaning.REFUSED),
)
"""Parts of messages, in any case of letters; the first that is found decides."""

_WORDS = tuple((re.compile(words, re.IGNORECASE), meaning) for words, meaning in WORDS)


class Error(msgspec.Struct):
    """Why something was refused."""

    error: str


def answered_error(status: int, body: bytes, retry_after: str | None = None) -> EngineError:
    """What an answer that is not 200 means."""
    if body.startswith(EVENT):
        # A model failed before its first text; that it is 400 says nothing of the request.
        return stream_error(body.removeprefix(EVENT).strip())
    return _meaning(status, _message(body, f"HTTP {status} and no reason"), retry_after)


def stream_error(payload: bytes) -> EngineError:
    """What an event with an `error` means: a failure, where its words tell nothing else."""
    return _meaning(500, _message(payload, "an error without a reason"), None)


def _message(body: bytes, otherwise: str) -> str:
    try:
        return msgspec.json.decode(body, type=Error).error
    except MALFORMED:
        return otherwise


def _meaning(status: int, message: str, retry_after: str | None) -> EngineError:
    found = (meaning for words, meaning in _WORDS if words.search(message))
    return refusal_of(next(found, meaning_of(status)), quoted(message), status, retry_after)
