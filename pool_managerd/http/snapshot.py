"""The whole state, once or as it changes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.config import Limits, Streams
from contracts.errors import ErrorCode
from contracts.pools import Snapshot
from contracts.service.drain import Drain
from contracts.service.envelope import contract_response
from contracts.service.routes import EVENT_STREAM, ApiRoute, Operation
from contracts.service.routes import Scope as AuthScope
from pool_managerd.snapshots import SnapshotBoard

GAP_S = 0.02
"""At least so long between two snapshots to one watcher; what changes meanwhile is merged."""


class SnapshotRoutes:
    """`GET /v1/snapshot` and `GET /v1/watch`."""

    def __init__(
        self, board: SnapshotBoard, drain: Drain, limits: Limits, streams: Streams
    ) -> None:
        self._board = board
        self._drain = drain
        self._limits = limits
        self._streams = streams

    async def snapshot(self, _: Request) -> Response:
        """The state as of now."""
        return contract_response(self._board.current())

    async def watch(self, _: Request) -> Response:
        """The state as of now, then every newer one."""
        return WatchResponse(self._board, self._drain, self._limits, self._streams)

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        return [
            ApiRoute(
                "GET", "/v1/snapshot", self.snapshot, scope=AuthScope.API, operation=_SNAPSHOT
            ),
            ApiRoute("GET", "/v1/watch", self.watch, scope=AuthScope.API, operation=_WATCH),
        ]


class WatchResponse(EventSourceResponse):
    """Snapshots to one watcher; a comment ends it when the daemon stops.

    The stream is counted around the whole answer and not in its generator, which
    never runs when a client leaves before the body begins.
    """

    def __init__(
        self, board: SnapshotBoard, drain: Drain, limits: Limits, streams: Streams
    ) -> None:
        super().__init__(
            _events(board, drain),
            ping=streams.keepalive_ms / 1000,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive"),
            send_timeout=limits.send_timeout_ms / 1000,
        )
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._drain.stream():
            await super().__call__(scope, receive, send)


async def _events(board: SnapshotBoard, drain: Drain) -> AsyncIterator[bytes]:
    """One event per version seen, until the daemon stops."""
    version = 0
    while not drain.begun:
        await _newer_or_stopping(board, drain, version)
        version, text = board.current_json()
        yield b"id: %d\r\nevent: snapshot\r\ndata: %b\r\n\r\n" % (version, text)
        await anyio.sleep(GAP_S)
    yield b": shutting down\r\n\r\n"


async def _newer_or_stopping(board: SnapshotBoard, drain: Drain, version: int) -> None:
    async with anyio.create_task_group() as group:

        async def stopping() -> None:
            await drain.wait_begun()
            group.cancel_scope.cancel()

        group.start_soon(stopping)
        await board.wait_newer(version)
        group.cancel_scope.cancel()


_SNAPSHOT = Operation("getSnapshot", "Pools, replicas and devices.", response=Snapshot)
_WATCH = Operation(
    "watchSnapshots",
    "The current snapshot, then a newer one whenever something changes.",
    response=Snapshot,
    errors=(ErrorCode.ADMISSION_REJECT,),
    media_type=EVENT_STREAM,
)
