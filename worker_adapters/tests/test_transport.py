"""What the shared HTTP client raises, sends and refuses."""

from __future__ import annotations

import inspect

import aiohttp
import pytest
from aiohttp import client_exceptions

from worker_adapters.errors import EngineError, EngineLost, EngineProtocolError, EngineUnreachable
from worker_adapters.tests.hostile import answer, hostile
from worker_adapters.tests.ports import free_port
from worker_adapters.transport import _MEANING, ANSWER_BYTES, EngineTransport, Target, engine_error

# Raised for web sockets and proxies, which this client never uses.
NEVER_RAISED = {
    client_exceptions.ClientError,
    client_exceptions.WSMessageTypeError,
    client_exceptions.UploadAbortedError,
}


def foreign_errors() -> list[type[BaseException]]:
    return [
        error
        for _, error in inspect.getmembers(client_exceptions, inspect.isclass)
        if issubclass(error, BaseException)
        and error.__module__ == client_exceptions.__name__
        and error not in NEVER_RAISED
    ]


@pytest.mark.parametrize("foreign", foreign_errors())
def test_every_error_of_the_http_client_has_a_meaning_of_its_own(
    foreign: type[BaseException],
) -> None:
    """LO-WRK-008."""
    catch_alls = (aiohttp.ClientError, OSError, TimeoutError)
    assert any(issubclass(foreign, known) for known, _ in _MEANING if known not in catch_alls)


def test_a_special_error_is_not_hidden_behind_a_general_one() -> None:
    known = [foreign for foreign, _ in _MEANING]
    for place, foreign in enumerate(known):
        hiding = [earlier for earlier in known[:place] if issubclass(foreign, earlier)]
        assert not hiding or foreign is TimeoutError, (foreign, hiding)


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (TimeoutError(), EngineLost),
        (ConnectionResetError(), EngineLost),
        (aiohttp.ServerDisconnectedError(), EngineLost),
        (aiohttp.ClientPayloadError(), EngineLost),
        (aiohttp.ConnectionTimeoutError(), EngineUnreachable),
        (aiohttp.InvalidURL("x"), EngineUnreachable),
        (aiohttp.http_exceptions.BadStatusLine(), EngineProtocolError),
    ],
)
def test_what_broke_tells_whether_anything_was_sent(
    foreign: BaseException, ours: type[EngineError]
) -> None:
    """LO-WRK-008."""
    assert type(engine_error(foreign, "http://h")) is ours


def test_a_message_is_one_line_that_names_the_address() -> None:
    error = engine_error(aiohttp.ClientPayloadError("a\nb\r\n c"), "http://h:1")
    assert str(error) == "http://h:1: a b c"


def test_the_key_is_in_no_repr() -> None:
    """LO-SYS-032."""
    assert "sekret" not in repr(Target("http://h", "sekret"))


@pytest.mark.anyio
async def test_a_refused_connection_is_unreachable_and_says_so(transport: EngineTransport) -> None:
    with pytest.raises(EngineUnreachable, match="cannot connect: Connection refused"):
        await transport.ask("GET", f"http://127.0.0.1:{free_port()}/", headers={})


@pytest.mark.anyio
async def test_silence_ends_at_the_deadline(transport: EngineTransport) -> None:
    async with hostile([], end="hang") as server:
        with pytest.raises(EngineLost, match="no answer in time"):
            await transport.ask("GET", server.base_url, headers={}, timeout_s=0.05)


@pytest.mark.anyio
async def test_a_redirect_is_not_followed(transport: EngineTransport) -> None:
    """LO-WRK-009."""
    async with hostile([answer(302, b"", b"Location: http://127.0.0.1:9/")]) as server:
        assert (await transport.ask("GET", server.base_url, headers={})).status == 302


@pytest.mark.anyio
async def test_a_proxy_of_the_environment_is_not_asked(
    transport: EngineTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-WRK-009."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with hostile([answer(200, b"{}")]) as server:
        assert (await transport.ask("GET", server.base_url, headers={})).status == 200


@pytest.mark.anyio
async def test_an_endless_answer_is_cut_at_its_bound(transport: EngineTransport) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
    async with hostile([head, b"x" * (ANSWER_BYTES + 1)], end="hang") as server:
        with pytest.raises(EngineProtocolError, match="more than"):
            await transport.ask("GET", server.base_url, headers={})


@pytest.mark.anyio
async def test_an_answer_may_reach_its_bound(transport: EngineTransport) -> None:
    async with hostile([answer(200, b"x" * ANSWER_BYTES)]) as server:
        assert len((await transport.ask("GET", server.base_url, headers={})).body) == ANSWER_BYTES


@pytest.mark.anyio
async def test_what_is_not_http_is_a_protocol_error(transport: EngineTransport) -> None:
    async with hostile([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"]) as server:
        with pytest.raises(EngineProtocolError):
            await transport.ask("GET", server.base_url, headers={})


@pytest.mark.anyio
async def test_cookies_are_not_kept_and_connections_not_reused(transport: EngineTransport) -> None:
    """LO-WRK-009."""
    async with hostile([answer(200, b"{}", b"Set-Cookie: a=b")] * 1) as server:
        for _ in range(2):
            await transport.ask("GET", server.base_url, headers={})
    assert all(b"Cookie" not in request for request in server.requests)
    assert all(b"Connection: close" in request for request in server.requests)


@pytest.mark.anyio
async def test_it_is_not_used_outside_its_scope() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await EngineTransport().ask("GET", "http://127.0.0.1:9/", headers={})
