"""A server on a real port that gives each route the bytes it is told, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from worker_adapters.tests.hostile import Hostile, answer, read_request

NOT_FOUND = answer(404, b"Not Found", kind=b"text/plain")


@asynccontextmanager
async def replaying(routes: Mapping[str, Sequence[bytes]]) -> AsyncIterator[Hostile]:
    """Send what stands under `METHOD PATH`, each piece in a packet of its own, and close."""
    state = Hostile("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await read_request(reader)
            state.requests.append(request)
            route = b" ".join(request.split(b" ", 2)[:2]).decode()
            for piece in routes.get(route, [NOT_FOUND]):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        state.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield state
