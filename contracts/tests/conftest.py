"""A small daemon on a real port, and sockets to talk to it without a client's help."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from contracts.config import Config, Limits
from contracts.errors import ErrorCode, Refusal
from contracts.model import Contract
from contracts.service.app import build_app
from contracts.service.drain import Drain
from contracts.service.envelope import contract_response
from contracts.service.json_body import read_contract
from contracts.service.routes import EVENT_STREAM, ApiRoute, Operation, Parameter, Scope
from contracts.service.serve import listen, serve
from contracts.service.settings import Secret, Settings

TOKEN = "t0ken-of-the-tests"
ANSWER_SECONDS = 20.0


class Echo(Contract):
    """What the test routes take and give."""

    a: int = Field(ge=0, le=100, description="A number.")
    text: str = Field(default="", description="A text.")


@dataclass
class Answer:
    """A parsed HTTP/1.1 answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A running server and the objects behind it."""

    port: int
    drain: Drain
    closing: anyio.Event = field(default_factory=anyio.Event)
    released: anyio.Event = field(default_factory=anyio.Event)
    flood_ended: anyio.Event = field(default_factory=anyio.Event)
    held: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(0))

    async def connect(self) -> SocketStream:
        return await anyio.connect_tcp("127.0.0.1", self.port)

    async def raw(self, *pieces: bytes) -> bytes:
        """Send `pieces`, then read until the server closes."""
        with anyio.fail_after(ANSWER_SECONDS):
            async with await self.connect() as stream:
                for piece in pieces:
                    await stream.send(piece)
                return await read_all(stream)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        token: str | None = TOKEN,
    ) -> Answer:
        """One request on a connection of its own."""
        sent = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None:
            sent["Content-Type"] = "application/json"
            sent["Content-Length"] = str(len(body))
        sent.update(headers or {})
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in sent.items())
        return parse(await self.raw(head.encode("latin-1") + b"\r\n" + (body or b"")))


def parse(data: bytes) -> Answer:
    """The first final answer in `data`, whose body ends with the connection."""
    head, _, rest = data.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        return parse(rest)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Answer(int(first.split(" ")[1]), headers, rest)


async def read_all(stream: SocketStream) -> bytes:
    """Everything until the end, a reset included."""
    data = bytearray()
    try:
        while True:
            data += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return bytes(data)


def routes_of(served: Served, config: Config) -> list[ApiRoute]:
    """Routes that show every manner the service promises."""

    async def health(_request: Request) -> Response:
        return contract_response(Echo(a=1))

    async def echo(request: Request) -> Response:
        return contract_response(await read_contract(request, Echo, config.limits))

    async def item(request: Request) -> Response:
        return contract_response(Echo(a=1, text=request.path_params["item_id"]))

    async def boom(_request: Request) -> Response:
        raise RuntimeError("a detail that no client reads")

    async def busy(_request: Request) -> Response:
        raise Refusal(ErrorCode.QUEUE_FULL, "The queue is full.", retry_after_ms=1234)

    async def misplaced(_request: Request) -> Response:
        raise Refusal(ErrorCode.WORKER_RESET, "A code of streams only.")

    async def hold(_request: Request) -> Response:
        served.held.release()
        await served.released.wait()
        return contract_response(Echo(a=1))

    async def events(_request: Request) -> Response:
        async def follow() -> AsyncIterator[bytes]:
            with served.drain.stream():
                yield b"data: first\n\n"
                await served.drain.wait_begun()
                yield b"event: error\ndata: {}\n\n"

        return StreamingResponse(follow(), media_type=EVENT_STREAM)

    async def flood(_request: Request) -> Response:
        async def follow() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536

        return Flood(follow(), media_type=EVENT_STREAM)

    class Flood(StreamingResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                served.flood_ended.set()

    async def broken(_request: Request) -> Response:
        async def follow() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("after the headers")

        return StreamingResponse(follow(), media_type="text/plain")

    text = {"type": "string"}
    api, public = Scope.API, Scope.PUBLIC
    return [
        ApiRoute(
            "GET",
            "/healthz",
            health,
            scope=public,
            operation=Operation("health", "Alive.", response=Echo),
        ),
        ApiRoute(
            "GET",
            "/metrics",
            health,
            scope=api,
            operation=Operation("metrics", "Figures.", media_type="text/plain; version=0.0.4"),
        ),
        ApiRoute(
            "POST",
            "/v1/echo",
            echo,
            scope=api,
            operation=Operation("echo", "Echo.", request=Echo, response=Echo, admits_work=True),
        ),
        ApiRoute(
            "GET",
            "/v1/items/{item_id}",
            item,
            scope=api,
            operation=Operation(
                "item",
                "One item.",
                response=Echo,
                errors=(ErrorCode.NOT_FOUND, ErrorCode.MODEL_UNKNOWN),
                path=(Parameter("item_id", "Its id.", {"type": "string", "maxLength": 64}),),
                query=(Parameter("limit", "How many.", {"type": "integer"}),),
            ),
        ),
        ApiRoute(
            "DELETE",
            "/v1/items/{item_id}",
            item,
            scope=api,
            operation=Operation("remove", "Remove.", status=204),
        ),
        ApiRoute("GET", "/v1/boom", boom, scope=api, operation=Operation("boom", "Fails.")),
        ApiRoute("GET", "/v1/busy", busy, scope=api, operation=Operation("busy", "Refuses.")),
        ApiRoute(
            "GET", "/v1/misplaced", misplaced, scope=api, operation=Operation("misplaced", "No.")
        ),
        ApiRoute("GET", "/v1/hold", hold, scope=api, operation=Operation("hold", "Waits.")),
        ApiRoute("GET", "/v1/broken", broken, scope=api, operation=Operation("broken", "Half.")),
        ApiRoute(
            "GET",
            "/v1/events",
            events,
            scope=api,
            operation=Operation(
                "events",
                "Follow.",
                media_type=EVENT_STREAM,
                headers=(Parameter("X-Task-Id", "The task.", text),),
            ),
        ),
        ApiRoute(
            "GET",
            "/v1/flood",
            flood,
            scope=api,
            operation=Operation("flood", "Endless.", media_type=EVENT_STREAM),
        ),
    ]


Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """`async with serving(limits={...}, auth={...}) as served`: a server on a free port."""

    @asynccontextmanager
    async def start(**sections: dict[str, Any]) -> AsyncIterator[Served]:
        tree = {"orchestratord": {"port": 0}, **sections}
        config = Config.model_validate_json(json.dumps(tree))
        settings = Settings(config, tmp_path / "config.yaml", tmp_path, Secret(TOKEN))
        listener = listen(config.orchestratord, "orchestratord")
        served = Served(listener.getsockname()[1], Drain(config.limits.streams))
        app = build_app(
            routes_of(served, config),
            settings=settings,
            listen=config.orchestratord,
            drain=served.drain,
        )

        async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            await serve(app, listener, config.limits, served.closing.wait, task_status=task_status)

        async with anyio.create_task_group() as tasks:
            await tasks.start(run)
            yield served
            served.drain.begin()
            served.released.set()
            served.closing.set()

    return start


@pytest.fixture
def limits() -> Limits:
    """The default limits."""
    return Limits()
