"""The floor under any relay: Starlette, Hypercorn, uvloop and aiohttp, and nothing else.

It reads the lines of an upstream stream and sends each event on once, as it is.
What orchestratord costs beyond this is what parsing, keeping and resuming cost.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


def build(upstream: str) -> Starlette:
    """An app that answers POST /relay with the stream of POST {upstream}/completion."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, aiohttp.ClientSession]]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            yield {"session": session}

    async def relay(request: Request) -> Response:
        body = await request.body()
        session: aiohttp.ClientSession = request.state.session
        headers = {name: request.headers[name] for name in ("authorization", "content-type")}

        async def events() -> AsyncIterator[bytes]:
            event = b""
            url = f"{upstream}/completion"
            async with session.post(url, data=body, headers=headers) as answer:
                async for line in answer.content:
                    event += line
                    if line == b"\n":
                        yield event
                        event = b""

        return StreamingResponse(events(), media_type="text/event-stream")

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    routes = [Route("/relay", relay, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> None:
    """Serve on 127.0.0.1:PORT for UPSTREAM: `line_relay UPSTREAM PORT`."""
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[2]}"]
    config.errorlog = None
    uvloop.run(serve(build(sys.argv[1]), config))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
