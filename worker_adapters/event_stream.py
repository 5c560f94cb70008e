"""The event stream of one generation, whatever its dialect: opened, cut into events, ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import ClientResponse

from worker_adapters.answers import Refusal
from worker_adapters.errors import EngineLost, EngineProtocolError
from worker_adapters.sse import EventParser, EventTooLong
from worker_adapters.transport import EngineTransport, Target, read_bounded, translated

END_TIMEOUT_S = 1.0
"""For the end of a body whose meaning is already known."""
EVENT_STREAM = "text/event-stream"


class EngineEvents:
    """The payloads of one stream."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response
        self._parser = EventParser()

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Payloads that arrived together, so that none of them waits for another read.

        Raises:
            EngineProtocolError: an event that does not end.
        """
        async for chunk in self._response.content.iter_any():
            payloads = self._feed(chunk)
            if payloads:
                yield payloads

    @property
    def is_cut(self) -> bool:
        """Whether the last event so far has no end; asked after `batches`, its body has none."""
        return self._parser.is_within_event

    async def expect_end(self, rest: list[bytes]) -> None:
        """Nothing may follow the final event; a cut or a silence here loses nothing.

        Args:
            rest: payloads that arrived together with the final one, and after it.

        Raises:
            EngineProtocolError: the engine went on.
        """
        with suppress(EngineLost), translated(str(self._response.url)):
            async with asyncio.timeout(END_TIMEOUT_S):
                while not rest:
                    chunk = await self._response.content.readany()
                    if not chunk:
                        return
                    rest = self._feed(chunk)
        if rest:
            raise EngineProtocolError("the engine went on after its final event")

    def _feed(self, chunk: bytes) -> list[bytes]:
        try:
            return self._parser.feed(chunk)
        except EventTooLong:
            raise EngineProtocolError("the engine sent an event that does not end") from None


@asynccontextmanager
async def open_events(
    transport: EngineTransport,
    target: Target,
    path: str,
    *,
    body: bytes,
    correlation_id: str,
    refusal: Refusal,
    engine: str,
) -> AsyncIterator[EngineEvents]:
    """`POST` a generation; leaving closes its connection, and so aborts it.

    Args:
        refusal: the dialect's table, for an answer that is not 200.
        engine: its name, for the message where something else answers.

    Raises:
        EngineError: no connection, a refusal, or no event stream.
    """
    url = target.base_url + path
    headers = target.headers(correlation_id)
    async with transport.stream("POST", url, headers=headers, body=body) as response:
        if response.status != 200:
            async with asyncio.timeout(END_TIMEOUT_S):
                said = await read_bounded(response, url)
            raise refusal(response.status, said, response.headers.get("Retry-After"))
        if response.content_type != EVENT_STREAM:
            raise EngineProtocolError(
                f"{url} answered {response.content_type}, not an event stream: is it {engine}?"
            )
        yield EngineEvents(response)
