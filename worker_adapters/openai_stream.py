"""The streaming loop of every server of OpenAI's API: vLLM's as much as a generic one."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from worker_adapters.base import StreamItem, Token
from worker_adapters.connection import EngineConnection
from worker_adapters.errors import EngineProtocolError
from worker_adapters.openai_dialect import DONE, StreamReader


async def generated(
    engine: EngineConnection, path: str, body: bytes, correlation_id: str
) -> AsyncGenerator[StreamItem, None]:
    """Tokens, then the end: see `EngineClient.stream`.

    `[DONE]` alone is no success: vLLM sends it after an error too.  A chunk may
    hold several tokens, and is one `Token`.
    """
    async with engine.events(path, body, correlation_id) as events:
        reader, begun = StreamReader(), False
        async for payloads in events.batches():
            # All that arrived together is yielded without an await in between.
            for number, payload in enumerate(payloads, start=1):
                if payload == DONE:
                    end = reader.finished()
                    await events.expect_end(payloads[number:])
                    yield end
                    return
                text = reader.text(payload)
                if not text:
                    continue
                if not begun:
                    begun, size = True, reader.prompt()
                    if size is not None:
                        yield size
                yield Token(text)
    raise EngineProtocolError("the engine's stream ended without `[DONE]`")
