"""The floor under any relay: Starlette, Hypercorn, uvloop and aiohttp, and nothing else.

It passes the lines of an upstream stream on as they come.  What orchestratord
costs beyond this is what parsing, logging events and resuming cost.
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
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


def build(upstream: str) -> Starlette:
    """An app with one route, POST /relay, that streams POST {upstream}/completion."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, aiohttp.ClientSession]]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            yield {"session": session}

    async def relay(request: Request) -> Response:
        body = await request.body()
        session: aiohttp.ClientSession = request.state.session

        async def lines() -> AsyncIterator[bytes]:
            headers = {"Content-Type": "application/json"}
            url = f"{upstream}/completion"
            async with session.post(url, data=body, headers=headers) as answer:
                async for line in answer.content:
                    yield line

        return StreamingResponse(lines(), media_type="text/event-stream")

    return Starlette(routes=[Route("/relay", relay, methods=["POST"])], lifespan=lifespan)


def main() -> None:
    """Serve on 127.0.0.1:PORT for UPSTREAM: `line_relay UPSTREAM PORT`."""
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[2]}"]
    config.errorlog = None
    uvloop.run(serve(build(sys.argv[1]), config))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
