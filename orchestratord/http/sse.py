"""An event log as an HTTP answer."""

from __future__ import annotations

import re

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from contracts.config import Limits, Streams
from contracts.service.drain import Drain
from orchestratord.errors import LogGone, ResumeInvalid
from orchestratord.runtime.event_log import EventLog

_EVENT_ID = re.compile(r"[0-9]{1,15}")


class LogResponse(EventSourceResponse):
    """Follows a log from `after_id`; comments keep it alive, a reader that stalls is cut.

    The stream is counted around the whole answer and not in its generator,
    which never runs when a client leaves before the body begins.
    """

    def __init__(
        self,
        log: EventLog,
        after_id: int,
        drain: Drain,
        limits: Limits,
        streams: Streams,
        headers: dict[str, str],
    ) -> None:
        super().__init__(
            log.follow(after_id),
            headers=headers,
            ping=streams.keepalive_ms / 1000,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive"),
            send_timeout=limits.send_timeout_ms / 1000,
        )
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._drain.stream():
            await super().__call__(scope, receive, send)


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
