"""What is answered: a contract as JSON, or the error envelope."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope, Send

from contracts.errors import STATUS, ErrorCode, Refusal
from contracts.model import MILLISECONDS_MAX, Contract

CORRELATION_HEADER = "X-Correlation-Id"
DEFAULT_BACKOFF_MS = 1_000
DEFAULT_POLICY = "admission"
BACKOFF_STATUSES = frozenset({429, 503})

_CORRELATION = "llorch.correlation_id"
_SERVER_SEND = "llorch.server_send"


def contract_response(
    model: Contract, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`model` as a JSON answer."""
    return Response(
        model.__pydantic_serializer__.to_json(model),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def refusal_response(
    refusal: Refusal, correlation: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The error envelope; 429 and 503 always say when to come back.

    A code that is spoken only inside a stream has no status: raising it below a
    route is a fault of ours, so it is answered as INTERNAL.
    """
    status = STATUS.get(refusal.code)
    if status is None:
        refusal = Refusal(ErrorCode.INTERNAL, "An internal error; the log has the details.")
        status = STATUS[ErrorCode.INTERNAL]
    sent = dict(headers or {})
    changes: dict[str, Any] = {}
    if status in BACKOFF_STATUSES:
        backoff_ms = DEFAULT_BACKOFF_MS
        if refusal.retry_after_ms is not None:
            backoff_ms = min(refusal.retry_after_ms, MILLISECONDS_MAX)
        changes["retry_after_ms"] = backoff_ms
        sent["X-Backoff-Ms"] = str(backoff_ms)
        sent["Retry-After"] = str(ceil(backoff_ms / 1000))
    if status == STATUS[ErrorCode.QUEUE_FULL]:
        changes["policy_label"] = refusal.policy_label or DEFAULT_POLICY
    envelope = refusal.envelope(correlation).model_copy(update=changes)
    return contract_response(envelope, status, sent)


def correlation_id(request: Request) -> str:
    """The correlation id of this request, as every answer and log line has it."""
    return scope_correlation_id(request.scope)


def scope_correlation_id(scope: Scope) -> str:
    """The same, where only the ASGI scope is at hand."""
    found: str = scope[_CORRELATION]
    return found


def set_correlation_id(scope: Scope, value: str) -> None:
    """Bind the id; done once, by the outermost middleware."""
    scope[_CORRELATION] = value


def set_server_send(scope: Scope, send: Send) -> None:
    """Remember the server's own `send`; done once, by the outermost middleware."""
    scope[_SERVER_SEND] = send


def server_send(scope: Scope) -> Send:
    """The server's own `send`, for frames in the middle of an event stream.

    Middlewares act on the start and the end of an answer; a coroutine of each for
    every token between would only cost.
    """
    send: Send = scope[_SERVER_SEND]
    return send
