"""Following a task over connections that break, on a real socket."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler

import pytest

from contracts.service.settings import Secret
from llama_orch.api import Api
from llama_orch.connection import Connection
from llama_orch.event_stream import TRIES, Event, follow
from llama_orch.failures import Failed, Refused, Unreachable
from llama_orch.tests.scripted_server import ScriptedServer, answer, end, event, refusal, sse

TASK = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
STREAM = f"GET /v1/tasks/{TASK}/stream"

pytestmark = pytest.mark.anyio


async def at_once(_seconds: float) -> None:
    """A pause that does not last."""


async def read(server: ScriptedServer, after: int = 0) -> list[Event]:
    async with Api(Connection(server.url, Secret("t"), "test")) as api:
        async with aclosing(follow(api, TASK, after, sleep=at_once)) as events:
            return [each async for each in events]


def in_turn(*connections: tuple[bytes, ...]) -> Callable[[BaseHTTPRequestHandler], None]:
    """The first connection reads the first chunks, the next the next."""
    turn = iter(connections)
    return lambda handler: sse(handler, *next(turn))


async def test_events_come_in_order_and_end_with_the_terminal_one(server: ScriptedServer) -> None:
    server.answers[STREAM] = in_turn(
        (b": hello\n\n", event(1, "started"), event(2, "token", t="a", i=0), end(3))
    )
    events = await read(server)
    assert [(each.number, each.name) for each in events] == [
        (1, "started"),
        (2, "token"),
        (3, "end"),
    ]


async def test_a_broken_stream_goes_on_with_no_gap_and_no_repeat(server: ScriptedServer) -> None:
    """LO-CMD-033."""
    first = (event(1, "started"), event(2, "token", t="a", i=0), b"id: 3\nevent: token\ndata: {")
    server.answers[STREAM] = in_turn(first, (event(3, "token", t="b", i=1), end(4)))
    events = await read(server)
    assert [each.number for each in events] == [1, 2, 3, 4]
    assert [call.get("last-event-id") for call in server.calls(STREAM)] == [None, "2"]


async def test_an_event_seen_already_is_not_given_again(server: ScriptedServer) -> None:
    """LO-CMD-033."""
    server.answers[STREAM] = in_turn(
        (event(1, "started"), event(1, "started"), event(2, "token", t="a", i=0), end(3))
    )
    assert [each.number for each in await read(server)] == [1, 2, 3]


async def test_line_separators_of_other_alphabets_stay_in_the_text(server: ScriptedServer) -> None:
    text = "a\u2028b\u2029c\u0085d\x0be\r\n"
    whole = event(1, "token", t=text, i=0) + end(2)
    server.answers[STREAM] = in_turn(tuple(whole[i : i + 1] for i in range(len(whole))))
    assert (await read(server))[0].data["t"] == text


async def test_a_server_that_goes_down_is_not_the_end_of_the_task(server: ScriptedServer) -> None:
    down = event(None, "error", code="SHUTTING_DOWN", message="", retriable=True)
    server.answers[STREAM] = in_turn((event(1, "started"), down), (end(2),))
    assert [each.name for each in await read(server)] == ["started", "end"]


async def test_a_logged_error_is_the_end_whatever_its_code(server: ScriptedServer) -> None:
    down = event(2, "error", code="SHUTTING_DOWN", message="", retriable=True)
    server.answers[STREAM] = in_turn((event(1, "started"), down))
    assert (await read(server))[-1].terminal


async def test_a_server_that_hangs_up_for_ever_is_given_up(server: ScriptedServer) -> None:
    server.answers[STREAM] = lambda handler: sse(handler)
    with pytest.raises(Unreachable, match=f"llama-orch stream {TASK} --from 5"):
        await read(server, after=5)
    assert len(server.calls(STREAM)) == TRIES + 1


async def test_progress_gives_new_tries(server: ScriptedServer) -> None:
    numbers = itertools.count(1)
    server.answers[STREAM] = lambda handler: sse(
        handler, end(n) if (n := next(numbers)) == 3 * TRIES else event(n, "token", t="x", i=n)
    )
    assert len(await read(server)) == 3 * TRIES


@pytest.mark.parametrize(("code", "status"), [("NOT_FOUND", 404), ("GONE", 410)])
async def test_a_refusal_is_final(server: ScriptedServer, code: str, status: int) -> None:
    server.answers[STREAM] = refusal(code, status)
    with pytest.raises(Refused, match=code):
        await read(server)
    assert len(server.calls(STREAM)) == 1


async def test_a_server_that_is_starting_is_waited_for(server: ScriptedServer) -> None:
    replies = iter([refusal("SHUTTING_DOWN", 503), lambda handler: sse(handler, end(1))])
    server.answers[STREAM] = lambda handler: next(replies)(handler)
    assert [each.name for each in await read(server)] == ["end"]


@pytest.mark.parametrize("data", [b"id: 1\ndata: [1]\n\n", b"id: 1\ndata: \xff\n\n"])
async def test_data_that_is_no_object_is_refused(server: ScriptedServer, data: bytes) -> None:
    server.answers[STREAM] = in_turn((data,))
    with pytest.raises(Failed, match="not a JSON object"):
        await read(server)


async def test_a_page_instead_of_a_stream_is_refused(server: ScriptedServer) -> None:
    server.answers[STREAM] = lambda handler: answer(handler, 200, {}, content_type="text/html")
    with pytest.raises(Failed, match="text/html: check --url"):
        await read(server)
