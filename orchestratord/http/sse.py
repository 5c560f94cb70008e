"""An event log as an HTTP answer.

sse-starlette would do this at twice the cost: it takes a lock and opens a
cancel scope for every event and keeps four tasks a stream.  Here the deadline on
a reader that stalls is the connection's (`contracts.service.http1`), so that an
event costs one `send`.
"""

from __future__ import annotations

import re
from contextlib import aclosing

import anyio
import anyio.lowlevel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.config import Streams
from contracts.service.drain import Drain
from contracts.service.envelope import server_send
from contracts.service.routes import EVENT_STREAM
from orchestratord.errors import LogGone, ResumeInvalid
from orchestratord.runtime.event_log import EventLog

_EVENT_ID = re.compile(r"[0-9]{1,15}")
PIECE_BYTES = 262_144
_COMMENT = b": keep-alive\n\n"


class LogResponse(Response):
    """Follows a log from `after_id` to its end, or until the reader leaves.

    The stream is counted around the whole answer and not in its generator,
    which never runs when a client leaves before the body begins.
    """

    media_type = EVENT_STREAM

    def __init__(
        self, log: EventLog, after_id: int, drain: Drain, streams: Streams, headers: dict[str, str]
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", **headers})
        del self.headers["content-length"]
        self._log = log
        self._after_id = after_id
        self._drain = drain
        self._keepalive_s = streams.keepalive_ms / 1000
        self._quiet = True

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Send the log; raises `Refusal` before the headers where too many streams are open."""
        with self._drain.stream():
            # A task that was just posted is on its way to an engine: that goes first.
            await anyio.lowlevel.checkpoint()
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            async with anyio.create_task_group() as group:
                group.start_soon(self._end_when_gone, receive, group.cancel_scope)
                group.start_soon(self._keep_alive, send)
                await self._send_frames(server_send(scope))
                group.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_frames(self, send: Send) -> None:
        async with aclosing(self._log.follow(self._after_id)) as log:
            async for frames in log:
                self._quiet = False
                # A result may be a frame of megabytes; what lies unsent is bounded by pieces.
                for begin in range(0, len(frames), PIECE_BYTES):
                    piece = frames[begin : begin + PIECE_BYTES]
                    await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        """A comment after each interval in which nothing was said."""
        while True:
            self._quiet = True
            await anyio.sleep(self._keepalive_s)
            if self._quiet:
                await send({"type": "http.response.body", "body": _COMMENT, "more_body": True})

    async def _end_when_gone(self, receive: Receive, stream: anyio.CancelScope) -> None:
        """A reader that left never cancels its task; it only stops being sent to."""
        while (await receive())["type"] != "http.disconnect":
            pass
        stream.cancel()


def resume_point(request: Request, task_id: str, log: EventLog) -> int:
    """The last event the reader has seen, 0 for none.

    Raises:
        ResumeInvalid: Last-Event-ID is no number, or beyond the log.
        LogGone: events after it are no longer kept.
    """
    text = request.headers.get("last-event-id", "0")
    if not _EVENT_ID.fullmatch(text) or int(text) > log.last_id:
        raise ResumeInvalid(text)
    if not log.keeps_all_after(int(text)):
        raise LogGone(task_id)
    return int(text)
