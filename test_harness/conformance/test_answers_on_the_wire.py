"""What the adapters make of whole answers of Triton, recorded, and of TGI, written down."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.tasks import Message
from test_harness.conformance.asking import failure_of, items_of, request_of
from test_harness.conformance.transcripts import recorded
from worker_adapters.base import Finished, GenerationRequest, StreamItem, Token
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineProtocolError,
    EngineRefused,
)
from worker_adapters.tests.hostile import hostile
from worker_adapters.tgi import TgiClient
from worker_adapters.transport import EngineTransport
from worker_adapters.triton import TritonClient
from worker_adapters.triton_metrics import Figures, read_figures

pytestmark = pytest.mark.anyio

CHAT = (Message(role="user", content="Hi"),)
TOO_LONG, INVALID = ErrorCode.CONTEXT_EXCEEDED, ErrorCode.INVALID_PARAMS
RESET, UNREADY = ErrorCode.WORKER_RESET, ErrorCode.POOL_UNREADY
FOREIGN = ErrorCode.UPSTREAM_PROTOCOL

Failure = tuple[type[EngineError], ErrorCode]
WORDS = [Token(" w0"), Token(" w1"), Token(" w2")]

TRITON_ENDS: Mapping[str, list[StreamItem]] = {
    "stream": [*WORDS, Finished("length", 2, 3, None)],
    "no-counts": [*WORDS, Finished("length", 0, 3, None)],
    "empty": [Finished("stop", 0, 0, None)],
}
TRITON_FAILS: Mapping[str, Failure] = {
    "error-first": (EngineFailed, RESET),
    "error-later": (EngineFailed, RESET),
    "stub-died": (EngineFailed, RESET),
    "too-long": (EngineRefused, TOO_LONG),
    "wrong-type": (EngineRefused, INVALID),
    "bad-json": (EngineRefused, INVALID),
    "unknown-model": (EngineBusy, UNREADY),
    "decoupled": (EngineProtocolError, FOREIGN),
}
RIVER = [Token(" river"), Token(" and")]
TGI_ENDS: Mapping[str, list[StreamItem]] = {
    "stream": [*RIVER, Finished("stop", 4, 3, None)],
    "length": [*RIVER, Finished("length", 4, 2, None)],
    "stop": [*RIVER, Finished("stop_string", 4, 2, None)],
    "chat": [*RIVER, Finished("stop", 4, 3, None)],
}
TGI_FAILS: Mapping[str, Failure] = {
    "too-long": (EngineRefused, TOO_LONG),
    "invalid": (EngineRefused, INVALID),
    "bad-json": (EngineRefused, INVALID),
    "overloaded": (EngineBusy, UNREADY),
    "error-later": (EngineFailed, RESET),
    "cut-off": (EngineFailed, RESET),
    "chat-error": (EngineRefused, TOO_LONG),
}


def wire(engine: str, name: str) -> bytes:
    return recorded(engine)[name]


def triton(stream: str = "stream") -> dict[bytes, bytes]:
    return {
        b"/v2": wire("triton", "server"),
        b"/v2/repository/index": wire("triton", "index"),
        b"/v2/models/tiny": wire("triton", "model"),
        b"/v2/models/tiny/config": wire("triton", "config"),
        b"/v2/models/tiny/generate_stream": wire("triton", stream),
    }


def tgi(name: str) -> dict[bytes, bytes]:
    return dict.fromkeys((b"/generate_stream", b"/v1/chat/completions"), wire("tgi", name))


def asked_for(name: str) -> GenerationRequest:
    return request_of(None, messages=CHAT) if name.startswith("chat") else request_of()


def test_every_file_is_read_by_a_test() -> None:
    """LO-WRK-163."""
    about = {"server", "index", "model", "config", "metrics"}
    assert set(recorded("triton")) == {*TRITON_ENDS, *TRITON_FAILS, *about}
    assert set(recorded("tgi")) == {*TGI_ENDS, *TGI_FAILS, "info", "unhealthy"}


@pytest.mark.parametrize("name", TRITON_ENDS)
async def test_triton_ends_a_stream(transport: EngineTransport, name: str) -> None:
    """LO-WRK-163, LO-WRK-156."""
    async with hostile(triton(name)) as server:
        client = TritonClient(transport, server.base_url, None)
        assert await items_of(client, request_of(max_tokens=3)) == TRITON_ENDS[name]


@pytest.mark.parametrize("name", TRITON_FAILS)
async def test_triton_fails_a_stream(transport: EngineTransport, name: str) -> None:
    """LO-WRK-163, LO-WRK-162."""
    async with hostile(triton(name)) as server:
        client = TritonClient(transport, server.base_url, None)
        came, error = await failure_of(client, request_of(max_tokens=3))
    assert (type(error), error.code) == TRITON_FAILS[name]
    assert came == (WORDS[:2] if name == "error-later" else [])


async def test_triton_tells_what_it_is(transport: EngineTransport) -> None:
    """LO-WRK-163, LO-WRK-159."""
    async with hostile(triton()) as server:
        client = TritonClient(transport, server.base_url, None)
        seen, can = await client.observe(), await client.capabilities()
    assert (seen.engine_version, seen.model_alias) == ("2.51.0", "tiny")
    assert (seen.ctx, seen.slots_total) == (512, 2)
    assert Feature.STOP in can.features
    page = wire("triton", "metrics").partition(b"\r\n\r\n")[2]
    assert read_figures(page) == Figures(None, 0, None)


@pytest.mark.parametrize("name", TGI_ENDS)
async def test_tgi_ends_a_stream(transport: EngineTransport, name: str) -> None:
    """LO-WRK-163, LO-WRK-151."""
    async with hostile(tgi(name)) as server:
        client = TgiClient(transport, server.base_url, "key")
        assert await items_of(client, asked_for(name)) == TGI_ENDS[name]


@pytest.mark.parametrize("name", TGI_FAILS)
async def test_tgi_fails_a_stream(transport: EngineTransport, name: str) -> None:
    """LO-WRK-163, LO-WRK-154."""
    async with hostile(tgi(name)) as server:
        client = TgiClient(transport, server.base_url, "key")
        came, error = await failure_of(client, asked_for(name))
    assert (type(error), error.code) == TGI_FAILS[name]
    assert came == (RIVER[:1] if name in ("error-later", "cut-off") else [])


async def test_tgi_tells_what_it_is_unless_it_is_sick(transport: EngineTransport) -> None:
    """LO-WRK-163, LO-WRK-153."""
    empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    routes = {b"/health": empty, b"/metrics": empty, b"/info": wire("tgi", "info")}
    async with hostile(routes) as server:
        seen = await TgiClient(transport, server.base_url, None).observe()
    assert (seen.engine_version, seen.ctx) == ("3.3.6-dev0 (db931fcf)", 2048)
    async with hostile(routes | {b"/health": wire("tgi", "unhealthy")}) as server:
        with pytest.raises(EngineBusy):
            await TgiClient(transport, server.base_url, None).observe()
