"""A daemon that does nothing but live: what the tests of its life start as a process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from contracts.service.app import build_app
from contracts.service.daemon import Service, StateDamaged, run_daemon
from contracts.service.drain import Drain
from contracts.service.routes import EVENT_STREAM, JSON, ApiRoute, Endpoint, Operation, Scope
from contracts.service.settings import Settings


@asynccontextmanager
async def open_service(settings: Settings, drain: Drain) -> AsyncIterator[Service]:
    """Faults are chosen by SAMPLE_FAULT: damaged, stuck, hang, thread."""
    fault = os.environ.get("SAMPLE_FAULT")
    if fault == "damaged":
        raise StateDamaged("state.sqlite is damaged;\nrestore the backup beside it")
    (settings.state_dir / "state.sqlite").touch()
    crash = anyio.Event()

    async def health(_request: Request) -> Response:
        return Response("ok")

    async def fail(_request: Request) -> Response:
        crash.set()
        return Response("soon")

    async def events(_request: Request) -> Response:
        async def follow() -> AsyncIterator[bytes]:
            with drain.stream():
                yield b"data: first\n\n"
                await (anyio.sleep_forever() if fault == "hang" else drain.wait_begun())
                yield b"event: error\ndata: SHUTTING_DOWN\n\n"

        return StreamingResponse(follow(), media_type=EVENT_STREAM)

    async def background() -> None:
        await crash.wait()
        raise RuntimeError("the engine room is on fire")

    async def stop() -> None:
        if fault == "stuck":
            await anyio.sleep_forever()

    def route(endpoint: Endpoint, path: str, media_type: str = JSON) -> ApiRoute:
        operation = Operation(path.strip("/"), path, media_type=media_type)
        return ApiRoute("GET", path, endpoint, scope=Scope.PUBLIC, operation=operation)

    routes = [
        route(health, "/healthz"),
        route(fail, "/fail"),
        route(events, "/events", EVENT_STREAM),
    ]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(background)
        if fault == "thread":
            tasks.start_soon(anyio.to_thread.run_sync, time.sleep, 3600)
        listen = settings.config.orchestratord
        yield Service(build_app(routes, settings=settings, listen=listen, drain=drain), stop)
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(run_daemon("orchestratord", open_service))
