"""A pool_managerd on a real port that answers what it is told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from contracts.service.run_files import RunFile
from orchestratord.tests.builders import pool_view, replica, snapshot

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Seen(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


class StandIn:
    """Plays `answers` in turn; told nothing, it answers 404."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.seen: list[Seen] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.path, await request.read(), headers))
        if not self.answers:
            return web.Response(status=404)
        return await self.answers.popleft()(request)


@asynccontextmanager
async def stand_in(state_dir: Path) -> AsyncIterator[StandIn]:
    """One that is running, and found by its run file."""
    manager = StandIn()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", manager.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        manager.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        RunFile.write(state_dir, "pool_managerd", manager.url)
        yield manager
    finally:
        await runner.cleanup()


def plain(status: int, body: bytes = b"") -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body)

    return answer


def redirect(url: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": url})

    return answer


def in_pieces(status: int, *pieces: bytes) -> Answer:
    """An answer whose body comes in pieces, each seen alone by the reader."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.01)
        return response

    return answer


async def cut(request: web.Request) -> web.StreamResponse:
    """The connection breaks instead of an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def event(version: int) -> bytes:
    """A snapshot as an event."""
    body = snapshot(pool_view(replica()), version=version).model_dump_json()
    return f": hello\nevent: snapshot\nid: {version}\ndata: {body}\n\n".encode()


def watch(*chunks: bytes, then: str = "hold") -> Answer:
    """An event stream of `chunks`; then it is held open, `cut` off or brought to an `end`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then == "hold":
            await asyncio.Event().wait()
        if then == "cut":
            await asyncio.sleep(0.01)
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer
