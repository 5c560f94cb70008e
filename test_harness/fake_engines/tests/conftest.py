"""Stand-in engines on a port of this process, asked by the client of the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from test_harness.fake_engines.llamacpp import LlamaCpp
from test_harness.fake_engines.process import options_parser
from test_harness.fake_engines.server import FakeEngine
from worker_adapters.base import Finished, GenerationRequest, Progress, StreamItem, Token
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.transport import EngineTransport

Serving = Callable[..., AbstractAsyncContextManager["Asked"]]


@dataclass(frozen=True)
class Asked:
    """A stand-in engine that serves, and a client of it."""

    fake: FakeEngine
    transport: EngineTransport
    base_url: str

    @property
    def client(self) -> LlamaCppClient:
        return LlamaCppClient(self.transport, self.base_url, None)

    async def items(self, prompt: str, **fields: Any) -> list[StreamItem]:
        """Everything of one stream."""
        async with aclosing(self.client.stream(request_of(prompt, **fields))) as stream:
            return [item async for item in stream]

    async def finished(self, prompt: str, **fields: Any) -> Finished:
        """The end of one stream."""
        last = (await self.items(prompt, **fields))[-1]
        assert isinstance(last, Finished)
        return last


def request_of(prompt: str, **fields: Any) -> GenerationRequest:
    """A request for five tokens, unless it says otherwise."""
    given: dict[str, Any] = {"max_tokens": 5, "seed": 1, "correlation_id": "c"}
    return GenerationRequest(prompt=prompt, **(given | fields))


def text_of(items: list[StreamItem]) -> str:
    return "".join(item.text for item in items if isinstance(item, Token))


def progress_of(items: list[StreamItem]) -> list[int]:
    return [item.processed_tokens for item in items if isinstance(item, Progress)]


@pytest.fixture
def serving(anyio_backend: str) -> Serving:
    """`serving("--slots", "2")`: an engine with these options, and no pause between tokens."""

    @asynccontextmanager
    async def serve(*options: str) -> AsyncIterator[Asked]:
        argv = ["--port", "0", "--token-ms", "0", *options]
        fake = FakeEngine(LlamaCpp(), options_parser(LlamaCpp()).parse_args(argv))
        runner = web.AppRunner(fake.app(), handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            async with EngineTransport() as transport:
                yield Asked(fake, transport, f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()

    return serve
