"""Follow a task's events over as many connections as it takes.

A connection may break, and orchestratord may be started again, while the task
lives on: the reader connects again with `Last-Event-ID` and goes on where it
was.  The tries are bounded, and only an event that is new counts as progress,
so that a server that accepts and hangs up cannot hold a reader for ever.

The terminal event is the last one given.  An `error SHUTTING_DOWN` without an
id of its own speaks of the server, not of the task, and is not given.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2

from contracts.errors import ErrorCode
from contracts.events import TERMINAL_EVENTS
from llama_orch.api import Api
from llama_orch.failures import Failed, Refused, Unreachable

TRIES = 8
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 4.0
EVENT_BYTES_MAX = 64 * 2**20
"""An embedding of many texts is one event, as large as the server's `streams.log_bytes`."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a task: its number from 1, its name, its data."""

    number: int
    name: str
    data: dict[str, Any]

    @property
    def terminal(self) -> bool:
        """True for `end` and `error`: nothing follows."""
        return self.name in TERMINAL_EVENTS


async def follow(
    api: Api,
    task_id: str,
    after: int = 0,
    *,
    on_break: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> AsyncGenerator[Event, None]:
    """Every event of `task_id` after number `after`; use with `aclosing`.

    `on_break` is told, in words, of each connection that broke.

    Raises:
        Refused: unknown task (404), past retention (410), a number beyond the log (400).
        Unreachable: the connection broke and could not be had again.
        Failed: the other side does not speak this stream.
    """
    tries = 0
    while True:
        reason = "the connection was closed"
        try:
            async with aclosing(_one_connection(api, task_id, after)) as events:
                async for event in events:
                    tries, after = 0, event.number
                    yield event
                    if event.terminal:
                        return
        except (httpx2.RequestError, Unreachable) as error:
            reason = str(error) or type(error).__name__
            if after == 0 and tries == 0 and isinstance(error, Unreachable):
                raise
        except Refused as refusal:
            if refusal.status != 503:
                raise
            reason = refusal.message
        if tries == TRIES:
            raise Unreachable(
                f"lost the stream of task {task_id}: {reason};"
                f" go on with `llama-orch stream {task_id} --from {after}`"
            )
        on_break(reason)
        await sleep(min(FIRST_DELAY_S * 2**tries, LONGEST_DELAY_S))
        tries += 1


async def _one_connection(api: Api, task_id: str, after: int) -> AsyncGenerator[Event, None]:
    async with api.stream(f"/v1/tasks/{task_id}/stream", after) as response:
        kind = response.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "text/event-stream":
            raise Failed(f"{api.connection.url} answered {kind or 'nothing'}: check --url")
        source = httpx2.EventSource(response, max_event_size=EVENT_BYTES_MAX)
        async for sse in source:
            number = int(sse.id) if sse.id.isascii() and sse.id.isdigit() else after
            if number > after:
                after = number
                yield Event(number, sse.event, _object(sse.data))
            elif sse.event == "error" and _object(sse.data).get("code") == ErrorCode.SHUTTING_DOWN:
                return


def _object(data: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Failed("the event stream holds something that is not a JSON object: check --url")
    return value
