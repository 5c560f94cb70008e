"""One connection: Hypercorn's HTTP/1.1, held to what we promise.

Three of its classes are kept and bent: the connection (a deadline on every write),
the request task (an inbox that never blocks), the protocol (no upgrades, refusals
as envelopes).  They are not Hypercorn's public API, so pyproject.toml pins the
minor version and the tests of this module run on real sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import h11
import structlog
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import EventWrapper, WorkerContext
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState

from contracts.errors import ErrorCode, Refusal
from contracts.ids import new_uuid
from contracts.service.envelope import CORRELATION_HEADER, refusal_response

log = structlog.get_logger()

HEADER_BYTES_MAX = 16_384
HEADERS_MESSAGE = f"The request line and headers are larger than {HEADER_BYTES_MAX} bytes."
IDLE_SECONDS = 5.0
LEFT_LOOKED_AT_EVERY_S = 1.0


class Connection(TCPServer):
    """One socket: HTTP/1.1 only, and a deadline on every write."""

    def __init__(
        self,
        app: ASGIWrapper,
        config: HypercornConfig,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        send_seconds: float,
        idle: dict[Connection, None],
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(app, loop, config, context, {}, reader, writer)
        self.closed = anyio.Event()
        self._send_seconds = send_seconds
        self._idle = idle

    async def run(self) -> None:
        """Serve requests until either side closes."""
        peer = self.writer.get_extra_info("peername")
        own = self.writer.get_extra_info("sockname")
        secure = self.writer.get_extra_info("ssl_object") is not None
        try:
            async with _RequestTasks(self.loop) as tasks:
                self._task_group = tasks
                self.protocol = _Http1(  # type: ignore[assignment]
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState({}),
                    secure,
                    peer[:2] if peer else None,
                    own[:2] if own else None,
                    self.protocol_send,
                )
                self.protocol.can_read = _ReadGate(self)  # type: ignore[attr-defined]
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_data()
                # Nothing more will be asked: no point in waiting for it.
                await self.idle_task.stop()
        except OSError:
            pass  # The peer is gone; there is nobody to tell.
        finally:
            await self._close()

    @property
    def is_left(self) -> bool:
        """Whether the client has gone, or said that it will send no more."""
        left = self.reader.at_eof() or self.reader.exception() is not None
        return left or self.writer.is_closing()

    async def protocol_send(self, event: Event) -> None:
        """Write, or close, or note that a request began or ended."""
        if isinstance(event, RawData):
            await self._write(event.data)
            return
        if isinstance(event, Updated):
            if event.idle:
                self._idle[self] = None
            else:
                self._idle.pop(self, None)
            if self.reader.at_eof():
                return  # Hypercorn would keep a socket that its client has left.
        await super().protocol_send(event)

    async def _write(self, data: bytes) -> None:
        if self.writer.is_closing():
            # Nobody is there, but a handler that only writes must still let the
            # loop run, or it never learns so.
            await asyncio.sleep(0)
            return
        async with self.send_lock:
            try:
                self.writer.write(data)
                if self._unsent() and not await self._drained():
                    log.info("http.reader_cut_off", seconds=self._send_seconds)
                    self.writer.transport.abort()
                    await self.protocol.handle(Closed())
            except (ConnectionError, RuntimeError):
                await self.protocol.handle(Closed())

    async def _drained(self) -> bool:
        """Wait for room in the send buffer; False once nothing moves for the deadline."""
        while True:
            before = self._unsent()
            with anyio.move_on_after(self._send_seconds):
                await self.writer.drain()
                return True
            if self._unsent() >= before:
                return False

    def _unsent(self) -> int:
        return self.writer.transport.get_write_buffer_size()

    async def _close(self) -> None:
        # Hypercorn's own swallows cancellation, and waits for ever for a reader
        # that takes nothing.
        with suppress(OSError, RuntimeError, NotImplementedError):
            self.writer.write_eof()
        self.writer.close()
        with anyio.move_on_after(self._send_seconds):
            with suppress(OSError, RuntimeError):
                await self.writer.wait_closed()
        self.writer.transport.abort()
        await self.idle_task.stop()


class _ReadGate(EventWrapper):
    """Where reading waits while an answer is under way and the client has sent more.

    Hypercorn reads nothing then, and so never learns that the client has left: an
    event stream with a byte behind its request would stay open until something is
    sent.  So the socket is looked at now and then.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    async def wait(self) -> None:
        """Return once the answer is over; the application is told of a client that leaves."""
        told = False
        while not self.is_set():
            with anyio.move_on_after(LEFT_LOOKED_AT_EVERY_S):
                await super().wait()
            if not self.is_set() and not told and self._connection.is_left:
                told = True
                await self._connection.protocol.handle(Closed())


class _RequestTasks(TaskGroup):
    """Runs the application, and keeps its inbox open once it has answered.

    Hypercorn's inbox is bounded and nobody empties it after the application has
    returned: the task that reads the socket then waits in `put` for ever, and so
    does the one that wants to say "disconnected".  Here what comes late is dropped.
    """

    async def spawn_app(
        self, app: Any, config: Any, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Start the application; returns how to pass it what the client sends."""
        inbox: asyncio.Queue[Any] = asyncio.Queue(config.max_app_queue_size)
        answered = False

        async def put(message: Any) -> None:
            if not answered:
                await inbox.put(message)

        async def answer() -> None:
            nonlocal answered
            try:
                await app(scope, inbox.get, send, None, None)
            except Exception:
                log.exception("http.application_failed")
            finally:
                answered = True
                while not inbox.empty():
                    inbox.get_nowait()
                await send(None)

        self.spawn(answer)
        return put


class _Http1(H11Protocol):
    """HTTP/1.1 that is never upgraded, and whose own refusals are envelopes."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore `Upgrade`, as RFC 9110 section 7.8 allows."""

    async def _create_stream(self, request: h11.Request) -> None:
        # A WebSocket handshake is a plain GET here, like any other upgrade.
        plain = [(name, value) for name, value in request.headers if name != b"upgrade"]
        await super()._create_stream(
            h11.Request(
                method=request.method,
                target=request.target,
                headers=plain,
                http_version=request.http_version,
            )
        )

    async def _send_error_response(self, status_code: int) -> None:
        correlation = new_uuid()
        response = refusal_response(_framing_refusal(status_code), correlation)
        headers = [
            *response.raw_headers,
            (CORRELATION_HEADER.lower().encode(), correlation.encode()),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        log.info("http.refused", correlation_id=correlation, status=response.status_code)
        with suppress(h11.LocalProtocolError):
            await self._send_h11_event(
                h11.Response(status_code=response.status_code, headers=headers)
            )
            await self._send_h11_event(h11.Data(data=bytes(response.body)))
            await self._send_h11_event(h11.EndOfMessage())


def _framing_refusal(status: int) -> Refusal:
    if status == 431:
        return Refusal(ErrorCode.HEADERS_TOO_LARGE, HEADERS_MESSAGE)
    return Refusal(ErrorCode.INVALID_PARAMS, "This is not a well formed HTTP/1.1 request.")


def hypercorn_config() -> HypercornConfig:
    """Bounds of the protocol; Hypercorn's own logs are off, ours tell more.

    `read_timeout` stays unset: it would cut every event stream.
    """
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    config.keep_alive_timeout = IDLE_SECONDS
    return config
