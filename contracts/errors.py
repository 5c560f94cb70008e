"""Every way a request can fail: one closed list of codes, one envelope.

    Refusal                      raised anywhere below HTTP; carries a code
      `- ErrorEnvelope           what a client reads, as a body or an `error` event

A code has one HTTP status (`STATUS`) or is spoken only inside a stream
(`STREAM_ONLY`); a test holds the two sets against `ErrorCode`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from pydantic import Field

from contracts.ids import CorrelationId, PoolId
from contracts.model import Contract, Milliseconds, Omissible


class ErrorCode(StrEnum):
    """What went wrong, in one word that a script can branch on."""

    INVALID_PARAMS = "INVALID_PARAMS"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    CONFLICT = "CONFLICT"
    GONE = "GONE"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    MODEL_UNKNOWN = "MODEL_UNKNOWN"
    MODEL_RETIRED = "MODEL_RETIRED"
    UNTRUSTED_ARTIFACT = "UNTRUSTED_ARTIFACT"
    CONTEXT_EXCEEDED = "CONTEXT_EXCEEDED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    SESSION_TURNS_EXHAUSTED = "SESSION_TURNS_EXHAUSTED"
    ADMISSION_REJECT = "ADMISSION_REJECT"
    QUEUE_FULL = "QUEUE_FULL"
    DEADLINE_UNMET = "DEADLINE_UNMET"
    POOL_UNREADY = "POOL_UNREADY"
    POOL_UNAVAILABLE = "POOL_UNAVAILABLE"
    POOL_DRAINING = "POOL_DRAINING"
    STORAGE_BUSY = "STORAGE_BUSY"
    STORAGE_FULL = "STORAGE_FULL"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    POLICY_DENIED = "POLICY_DENIED"
    INTERNAL = "INTERNAL"
    # Spoken only as the terminal event of a stream.
    QUEUE_FULL_DROP_LRU = "QUEUE_FULL_DROP_LRU"
    CANCELED = "CANCELED"
    DECODE_TIMEOUT = "DECODE_TIMEOUT"
    WORKER_RESET = "WORKER_RESET"
    INTERRUPTED = "INTERRUPTED"
    POISON = "POISON"
    UPSTREAM_PROTOCOL = "UPSTREAM_PROTOCOL"


STATUS: Mapping[ErrorCode, int] = MappingProxyType(
    {
        ErrorCode.INVALID_PARAMS: 400,
        ErrorCode.CONTEXT_EXCEEDED: 400,
        ErrorCode.DEADLINE_UNMET: 400,
        ErrorCode.UNAUTHENTICATED: 401,
        ErrorCode.FORBIDDEN: 403,
        ErrorCode.BUDGET_EXHAUSTED: 403,
        ErrorCode.POLICY_DENIED: 403,
        ErrorCode.NOT_FOUND: 404,
        ErrorCode.MODEL_UNKNOWN: 404,
        ErrorCode.METHOD_NOT_ALLOWED: 405,
        ErrorCode.REQUEST_TIMEOUT: 408,
        ErrorCode.CONFLICT: 409,
        ErrorCode.MODEL_RETIRED: 409,
        ErrorCode.SESSION_TURNS_EXHAUSTED: 409,
        ErrorCode.GONE: 410,
        ErrorCode.PAYLOAD_TOO_LARGE: 413,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
        ErrorCode.UNTRUSTED_ARTIFACT: 422,
        ErrorCode.ADMISSION_REJECT: 429,
        ErrorCode.QUEUE_FULL: 429,
        ErrorCode.HEADERS_TOO_LARGE: 431,
        ErrorCode.INTERNAL: 500,
        ErrorCode.POOL_UNREADY: 503,
        ErrorCode.POOL_UNAVAILABLE: 503,
        ErrorCode.POOL_DRAINING: 503,
        ErrorCode.STORAGE_BUSY: 503,
        ErrorCode.SHUTTING_DOWN: 503,
        ErrorCode.STORAGE_FULL: 507,
    }
)

STREAM_ONLY = frozenset(
    {
        ErrorCode.QUEUE_FULL_DROP_LRU,
        ErrorCode.CANCELED,
        ErrorCode.DECODE_TIMEOUT,
        ErrorCode.WORKER_RESET,
        ErrorCode.INTERRUPTED,
        ErrorCode.POISON,
        ErrorCode.UPSTREAM_PROTOCOL,
    }
)

RETRIABLE = frozenset(
    {
        ErrorCode.REQUEST_TIMEOUT,
        ErrorCode.ADMISSION_REJECT,
        ErrorCode.QUEUE_FULL,
        ErrorCode.QUEUE_FULL_DROP_LRU,
        ErrorCode.POOL_UNREADY,
        ErrorCode.POOL_UNAVAILABLE,
        ErrorCode.POOL_DRAINING,
        ErrorCode.STORAGE_BUSY,
        ErrorCode.STORAGE_FULL,
        ErrorCode.SHUTTING_DOWN,
        ErrorCode.DECODE_TIMEOUT,
        ErrorCode.WORKER_RESET,
        ErrorCode.INTERRUPTED,
        ErrorCode.UPSTREAM_PROTOCOL,
    }
)

MESSAGE_MAX = 2048


class ErrorEnvelope(Contract):
    """The body of every answer that is not a success."""

    code: ErrorCode = Field(description="What went wrong, from a closed list.")
    message: str = Field(
        max_length=MESSAGE_MAX, description="One sentence that names the thing and the remedy."
    )
    retriable: bool = Field(description="Whether the same request may succeed later.")
    retry_after_ms: Omissible[Milliseconds] = Field(
        default=None, description="When to try again, in milliseconds from now."
    )
    correlation_id: CorrelationId = Field(description="The id found in the logs of this request.")
    engine: Omissible[str] = Field(default=None, max_length=64, description="The engine concerned.")
    pool_id: Omissible[PoolId] = Field(default=None, description="The pool concerned.")
    details: Omissible[dict[str, Any]] = Field(
        default=None, description="Facts a program can use, by code."
    )
    policy_label: Omissible[str] = Field(
        default=None, max_length=64, description="The admission policy that refused (429 only)."
    )


class Refusal(Exception):
    """Work that is refused or has failed, with the reason a client will read.

    Raised by any floor; rendered once, at the edge, as an `ErrorEnvelope`.
    `headers` are sent with it.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retry_after_ms: int | None = None,
        engine: str | None = None,
        pool_id: str | None = None,
        details: dict[str, Any] | None = None,
        policy_label: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message[:MESSAGE_MAX]
        self.retry_after_ms = retry_after_ms
        self.engine = engine
        self.pool_id = pool_id
        self.details = details
        self.policy_label = policy_label
        self.headers: dict[str, str] = {}

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code in RETRIABLE

    def envelope(self, correlation_id: str) -> ErrorEnvelope:
        """The same refusal as the client reads it."""
        return ErrorEnvelope(
            code=self.code,
            message=self.message,
            retriable=self.retriable,
            retry_after_ms=self.retry_after_ms,
            correlation_id=correlation_id,
            engine=self.engine,
            pool_id=self.pool_id,
            details=self.details,
            policy_label=self.policy_label,
        )
