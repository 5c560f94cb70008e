"""A clean stop: running tasks get their time, every stream gets a last event.

Queued tasks live on in the database, so their readers are told SHUTTING_DOWN
in a frame that is no part of the log.  A running task that is not done in time
goes back in line if nobody saw a token of it, and fails retriably if somebody
did.
"""

from __future__ import annotations

import anyio

from contracts.errors import ErrorCode
from contracts.events import ErrorEvent
from orchestratord.errors import ShuttingDown
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.ending import Failed, Rerun
from orchestratord.runtime.event_log import encode_frame
from orchestratord.runtime.metrics_feed import MetricsFeed

CUT_DEADLINE_S = 3.0


async def shut_down(dispatcher: Dispatcher, feed: MetricsFeed, drain_ms: int) -> None:
    """Let running tasks finish for `drain_ms`, cut the rest, end every stream."""
    dispatcher.draining = True
    _dismiss_waiting(dispatcher)
    with anyio.move_on_after(drain_ms / 1000):
        await _settled(dispatcher)
    for _, attempt in dispatcher.attempts:
        why = "orchestratord is stopping"
        attempt.abort(
            Failed(ErrorCode.SHUTTING_DOWN, f"{why}; part of the answer was already sent")
            if attempt.readable
            else Rerun(why)
        )
    with anyio.move_on_after(CUT_DEADLINE_S):
        await _settled(dispatcher)
    _dismiss_waiting(dispatcher)
    await feed.close()


async def _settled(dispatcher: Dispatcher) -> None:
    for _, attempt in dispatcher.attempts:
        await attempt.over.wait()


def _dismiss_waiting(dispatcher: Dispatcher) -> None:
    """Tell the readers of tasks that live on; whoever comes later is told at once."""
    refusal = ShuttingDown()
    event = ErrorEvent(
        code=refusal.code,
        message=refusal.message,
        retriable=refusal.retriable,
        retry_after_ms=refusal.retry_after_ms,
    )
    farewell = encode_frame("error", event.model_dump_json().encode(), None)
    for task in dispatcher.waiting:
        task.log.dismiss(farewell)
