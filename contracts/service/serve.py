"""Hypercorn's HTTP/1.1 under our own listener.

Hypercorn's `serve()` owns the listener and the connections, and that costs four
things we promise: it accepts cleartext HTTP/2 (`Upgrade: h2c` and prior
knowledge); it answers broken framing with an empty body; it puts no bound on
sockets or on a reader that takes nothing; and a request body nobody reads blocks
its connection for ever, because the queue to the application stays full.  So its
protocol and connection classes are kept, and what is around them is here.  The
version is pinned in pyproject.toml because these classes are not its public API.

Flow: `listen` binds (the port is known, taken ports are found out); `serve` accepts
until `closing` is set, then closes the listener at once, so that a late client is
refused rather than left waiting, ends idle connections, and gives busy ones a
grace.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import cast

import anyio
import structlog
from anyio.abc import TaskGroup as AnyioTaskGroup
from anyio.abc import TaskStatus
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config as HypercornConfig
from hypercorn.typing import ASGIFramework
from starlette.types import ASGIApp

from contracts.config import Limits, Listen, Tls
from contracts.service.config_source import ConfigError
from contracts.service.http1 import Connection, hypercorn_config

log = structlog.get_logger()

BACKLOG = 1024
CLOSE_GRACE_SECONDS = 1.0
SOCKETS_TO_SPARE = 32
"""Sockets beyond `limits.connections`, so that overload can still be answered."""


class PortBusy(Exception):
    """The address is taken; exit 75."""


def listen(where: Listen, key: str) -> socket.socket:
    """A bound socket, not listening yet; port 0 has become a real one.

    Raises:
        PortBusy: another process has the port.
        ConfigError: no such address here, or the port is not ours to take.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"{key}.host: {where.host}: {error.strerror}") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(
                f"{where.host}:{where.port} is in use; stop what listens there, or set"
                f" {key}.port (0 takes any free one)"
            ) from error
        raise ConfigError(f"{key}: {where.host}:{where.port}: {error.strerror}") from error
    found.setblocking(False)
    return found


def tls_context(tls: Tls) -> ssl.SSLContext | None:
    """The listener's TLS, or None where none is configured.

    Raises:
        ConfigError: the certificate or key cannot be used.
    """
    if tls.cert is None or tls.key is None:
        return None
    config = HypercornConfig()
    config.certfile, config.keyfile = tls.cert, tls.key
    config.alpn_protocols = ["http/1.1"]
    try:
        return config.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"auth.tls: {tls.cert}, {tls.key}: {error}") from error


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    limits: Limits,
    closing: Callable[[], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Answer HTTP/1.1 on `listener` until `closing` returns; started once it listens."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.stream_buffer_bytes // 2)
    async with anyio.create_task_group() as tasks:
        connections = _Connections(app, limits, tasks)
        server = await asyncio.start_server(
            connections.accept, sock=listener, ssl=tls, backlog=BACKLOG
        )
        task_status.started()
        try:
            await closing()
        finally:
            server.close()
        await connections.close()
        tasks.cancel_scope.cancel()


class _Connections:
    """The open sockets: how many there may be, and which of them are idle."""

    def __init__(self, app: ASGIApp, limits: Limits, tasks: AnyioTaskGroup) -> None:
        self._app = ASGIWrapper(cast(ASGIFramework, app))
        self._bound = limits.connections + SOCKETS_TO_SPARE
        self._send_seconds = limits.send_timeout_ms / 1000
        self._tasks = tasks
        self._context = WorkerContext(None)
        self._config = hypercorn_config()
        self._open: set[Connection] = set()
        # Ordered by when each fell idle, so that the first is the one to give up.
        self._idle: dict[Connection, None] = {}

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection; at the bound the longest idle one goes, or else this one."""
        if len(self._open) >= self._bound:
            longest_idle = next(iter(self._idle), None)
            if longest_idle is None:
                writer.transport.abort()
                return
            self._forget(longest_idle)
            longest_idle.writer.transport.abort()
        connection = Connection(
            self._app, self._config, self._context, reader, writer, self._send_seconds, self._idle
        )
        self._open.add(connection)
        self._idle[connection] = None
        self._tasks.start_soon(self._run, connection, name="http connection")

    async def close(self) -> None:
        """End idle connections; busy ones have a grace to finish their answer."""
        await self._context.terminated.set()
        with anyio.move_on_after(CLOSE_GRACE_SECONDS):
            while self._open:
                await next(iter(self._open)).closed.wait()
        for connection in self._open:
            connection.writer.transport.abort()

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        # One connection never takes the others with it.
        except Exception:
            log.exception("http.connection_failed")
        finally:
            connection.writer.transport.abort()
            self._forget(connection)
            connection.closed.set()

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)
