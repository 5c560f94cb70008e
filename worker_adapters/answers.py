"""What every dialect needs to read answers: JSON of a shape, refusals, an engine's own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from worker_adapters.errors import EngineError, EngineProtocolError
from worker_adapters.transport import Answer

MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises: text that is not UTF-8 is no `MsgspecError`."""
MESSAGE_CHARACTERS = 500
"""Of an engine's own words, what is passed on; a hostile one would say a megabyte."""
WAIT_MAX_S = 3600

Refusal = Callable[[int, bytes, str | None], EngineError]
"""A dialect's table: what a status, a body and a `Retry-After` mean."""
Shape = TypeVar("Shape")


def read_json(body: bytes, shape: type[Shape]) -> Shape:
    """`body` as `shape`; EngineProtocolError where it is something else."""
    try:
        return msgspec.json.decode(body, type=shape)
    except MALFORMED as error:
        raise EngineProtocolError(f"the engine's answer is not its own: {error}") from None


def accepted(answer: Answer, refusal: Refusal) -> bytes:
    """The body of a 200; raises what any other status means."""
    if answer.status != 200:
        raise refusal(answer.status, answer.body, answer.headers.get("Retry-After"))
    return answer.body


def quoted(message: str) -> str:
    """What an engine said, in one line of bounded length."""
    return f"the engine said: {' '.join(message.split())[:MESSAGE_CHARACTERS]}"


def retry_after_ms(header: str | None) -> int | None:
    """`Retry-After` in ms, at most an hour; None where it is no number of seconds."""
    if header is None or not (header.isascii() and header.isdigit()):
        return None
    # A header may hold thousands of digits; six are more than the bound.
    return min(int(header[:6]), WAIT_MAX_S) * 1000
