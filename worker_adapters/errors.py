"""Every way an engine can fail one request.

    EngineError
      |- EngineUnreachable     no connection, so nothing was sent
      |- EngineBusy            it lives, but takes nothing now
      |- EngineRefused         it understood the request and will not serve it
      |- EngineFailed          it gave the request up and said so
      |- EngineLost            the connection broke or fell silent after sending
      `- EngineProtocolError   what it said is not its own dialect

Each carries the `ErrorCode` a client would read.  Whether a task may be run
again is the caller's decision: it alone knows whether a token was readable.
"""

from __future__ import annotations

from typing import Literal

from contracts.errors import MESSAGE_MAX, RETRIABLE, ErrorCode


class EngineError(Exception):
    """An engine did not serve a request."""

    code = ErrorCode.WORKER_RESET

    def __init__(self, message: str) -> None:
        super().__init__(message[:MESSAGE_MAX])
        self.message = message[:MESSAGE_MAX]

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later, or on another replica."""
        return self.code in RETRIABLE


class EngineUnreachable(EngineError):
    """No connection was made, so the engine never saw the request."""


class EngineBusy(EngineError):
    """The engine is loading its model or full."""

    code = ErrorCode.POOL_UNREADY

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class EngineRefused(EngineError):
    """The request itself is wrong; sending it again changes nothing."""

    def __init__(
        self,
        message: str,
        *,
        code: Literal[ErrorCode.INVALID_PARAMS, ErrorCode.CONTEXT_EXCEEDED],
        status: int,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def unserved(what: str) -> EngineRefused:
    """The refusal of something that the engine's dialect has no words for."""
    return EngineRefused(
        f"this engine has no {what}; leave it out, or use another pool",
        code=ErrorCode.INVALID_PARAMS,
        status=400,
    )


class EngineFailed(EngineError):
    """The engine reported a failure of its own."""


class EngineLost(EngineError):
    """The connection broke, or an answer did not come in time, after sending."""


class EngineProtocolError(EngineError):
    """An answer that this engine would not give: foreign, cut, doubled or endless."""

    code = ErrorCode.UPSTREAM_PROTOCOL

    def __init__(self, message: str, *, status: int | None = None) -> None:
        """`status`: of HTTP, where that alone is what the engine would not give."""
        super().__init__(message)
        self.status = status
