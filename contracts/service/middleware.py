"""What surrounds every request, outermost first.

Correlation     an id on the answer, on every log line, and one access line
UnreadBody      reads on a while after an early answer, so that it is seen
Errors          every failure becomes the envelope
InFlight        a bound on requests at once
Framing         ambiguous framing, and hosts that are not ours
"""

from __future__ import annotations

import time

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.config import Limits
from contracts.errors import ErrorCode, Refusal
from contracts.ids import is_correlation_id, new_uuid
from contracts.service.drain import OVERLOAD_RETRY_MS
from contracts.service.envelope import (
    CORRELATION_HEADER,
    refusal_response,
    scope_correlation_id,
    set_correlation_id,
    set_server_send,
)
from contracts.service.hosts import AllowedHosts
from contracts.service.http1 import HEADER_BYTES_MAX, HEADERS_MESSAGE
from contracts.service.routes import route_template

log = structlog.get_logger()

QUIET_PATHS = frozenset({"/healthz", "/readyz"})
INTERNAL_MESSAGE = "An internal error; the log has the details under this correlation id."


class Correlation:
    """Echo the caller's `X-Correlation-Id` where it is well formed, else make one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} is served")
        given = Headers(scope=scope).getlist(CORRELATION_HEADER)
        correlation = given[0] if len(given) == 1 and is_correlation_id(given[0]) else new_uuid()
        set_correlation_id(scope, correlation)
        set_server_send(scope, send)
        began = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[CORRELATION_HEADER] = correlation
            await send(message)

        with structlog.contextvars.bound_contextvars(correlation_id=correlation):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                write = log.debug if scope["path"] in QUIET_PATHS else log.info
                write(
                    "http.request",
                    method=scope["method"],
                    route=route_template(scope),
                    status=status,
                    duration_ms=round((time.perf_counter() - began) * 1000, 3),
                )


class UnreadBody:
    """Take the rest of a body that was answered before it had all come.

    A socket closed over unread bytes is reset, and the reset can overtake the
    answer.  So the last piece of an early answer is held back while up to
    `body_bytes` more are read and dropped, for at most `body_timeout_ms`.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        complete = "transfer-encoding" not in headers and (
            headers.get("content-length", "0").strip("0") == ""
        )
        if complete:
            await self._app(scope, receive, send)
            return

        async def noting_receive() -> Message:
            nonlocal complete
            message = await receive()
            complete = complete or not message.get("more_body", False)
            return message

        async def discarding_send(message: Message) -> None:
            if complete:
                await send(message)
            elif message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
                await send(message)
            elif message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await self._discard(noting_receive)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, noting_receive, discarding_send)

    async def _discard(self, receive: Receive) -> None:
        left = self._limits.body_bytes
        with anyio.move_on_after(self._limits.body_timeout_ms / 1000):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


class Errors:
    """Answer every failure with the envelope; what we did not expect is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        headers: dict[str, str] = {}
        try:
            await self._app(scope, receive, noting_send)
        except ClientDisconnect:
            return
        except Refusal as error:
            refusal = error
            headers = getattr(error, "headers", headers)
        # The last boundary: whatever a handler did, the client reads an envelope
        # and the daemon goes on.
        except Exception:
            log.exception("http.internal_error", route=route_template(scope))
            refusal = Refusal(ErrorCode.INTERNAL, INTERNAL_MESSAGE)
        else:
            return
        if started:
            # Half an answer cannot be taken back; the server closes the socket
            # without the final chunk, which every client sees as a failure.
            log.warning("http.answer_broken", route=route_template(scope), code=refusal.code)
            return
        response = refusal_response(refusal, scope_correlation_id(scope), headers)
        await response(scope, receive, send)


class InFlight:
    """Refuse a request beyond `limits.connections` at once, open streams included."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._bound = limits.connections
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._count >= self._bound:
            raise Refusal(
                ErrorCode.ADMISSION_REJECT,
                f"{self._bound} requests are open, which is limits.connections",
                retry_after_ms=OVERLOAD_RETRY_MS,
                policy_label="connections",
            )
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1


class Framing:
    """Refuse what two parsers could read in two ways, and hosts that are not ours."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        # h11 measures only a block that has not all come: one that arrives in a
        # single read passes it at any size up to the read's.
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > HEADER_BYTES_MAX:
            raise Refusal(ErrorCode.HEADERS_TOO_LARGE, HEADERS_MESSAGE)
        if scope["http_version"] not in {"1.0", "1.1"}:
            raise Refusal(ErrorCode.INVALID_PARAMS, "Only HTTP/1.1 is served.")
        if "content-length" in headers and "transfer-encoding" in headers:
            raise Refusal(
                ErrorCode.INVALID_PARAMS, "Send Content-Length or Transfer-Encoding, not both."
            )
        self._hosts.check(headers)
        await self._app(scope, receive, send)
