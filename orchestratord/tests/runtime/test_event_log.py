"""One log, many readers: LO-ORC-061, LO-ORC-062, LO-ORC-063, LO-ORC-071, LO-ORC-073."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ErrorCode
from contracts.events import EndEvent, ErrorEvent
from orchestratord.runtime.event_log import EventLog, LogSealed, encode_frame
from orchestratord.tests.runtime.frames import parse, read, text_of

pytestmark = pytest.mark.anyio

ROOM = 2**24
HOSTILE = [
    "a\u2028b\u2029c\x85d",
    'say "hi"\\',
    "\n\ndata: forged\nid: 99\n\n",
    "\r\n\r\x00\x1b",
    "\U0001f999 zażółć \u0301",
    "<script>",
    " ",
    "event: end",
]
END = EndEvent(
    finish_reason="stop", tokens_in=1, tokens_out=2, queue_ms=0, first_token_ms=1, decode_ms=1
)
ERROR = ErrorEvent(code=ErrorCode.CANCELED, message="canceled", retriable=False)


def filled(
    count: int, *, sealed: bool = True, max_bytes: int = ROOM, first_id: int = 1
) -> EventLog:
    log = EventLog(max_bytes, first_id)
    for index in range(count):
        log.append_token(f"w{index} ")
    if sealed:
        log.append("end", END)
    return log


async def test_ids_count_from_one_and_tokens_from_zero() -> None:
    frames = parse(await read(filled(5)))
    assert [frame.id for frame in frames] == [1, 2, 3, 4, 5, 6]
    assert [frame.data["i"] for frame in frames[:-1]] == [0, 1, 2, 3, 4]
    assert [frame.name for frame in frames] == ["token"] * 5 + ["end"]


async def test_hostile_text_arrives_as_it_is_and_forges_nothing() -> None:
    log = EventLog(ROOM)
    for text in HOSTILE:
        log.append_token(text)
    log.append("end", END)
    frames = parse(await read(log))
    assert [frame.data["t"] for frame in frames[:-1]] == HOSTILE
    assert len(frames) == len(HOSTILE) + 1


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=8))
def test_joined_tokens_are_the_text(texts: list[str]) -> None:
    log = EventLog(ROOM)
    for text in texts:
        log.append_token(text)
    log.append("end", END)
    assert text_of(parse(asyncio.run(read(log)))) == "".join(texts)


async def test_every_reader_is_sent_the_same_bytes_however_late_it_comes() -> None:
    log, got = EventLog(ROOM), []

    async def reader() -> None:
        got.append(await read(log))

    async with anyio.create_task_group() as group:
        for index in range(30):
            group.start_soon(reader)
            log.append_token(f"{index} ")
            if index % 3 == 0:
                await anyio.wait_all_tasks_blocked()
        log.append("end", END)
    assert len(set(got)) == 1
    assert got[0] == await read(log)


async def test_a_reader_resumes_after_any_id_without_gap_or_repeat() -> None:
    log = filled(40)
    whole = parse(await read(log))
    for seen in range(log.last_id + 1):
        assert parse(await read(log, seen)) == whole[seen:]


async def test_a_reader_that_waits_is_given_each_event_when_it_comes() -> None:
    log = filled(1, sealed=False)
    async with aclosing(log.follow(0)) as frames:
        assert parse(await anext(frames))[0].id == 1
        log.append_token("two")
        assert parse(await anext(frames))[0].data["t"] == "two"
        log.append("error", ERROR)
        assert parse(await anext(frames))[0].name == "error"
        with pytest.raises(StopAsyncIteration):
            await anext(frames)


async def test_a_reader_that_has_seen_all_of_a_sealed_log_is_sent_nothing() -> None:
    log = filled(3)
    assert await read(log, log.last_id) == b""


async def test_ids_go_on_from_where_an_earlier_life_left_them() -> None:
    frames = parse(await read(filled(2, first_id=1_000), after_id=7))
    assert [frame.id for frame in frames] == [1_000, 1_001, 1_002]


async def test_nothing_can_follow_the_terminal_event() -> None:
    log = EventLog(ROOM)
    assert log.append("error", ERROR) == 1
    with pytest.raises(LogSealed):
        log.append_token("late")
    with pytest.raises(LogSealed):
        log.append("end", END)
    assert [frame.name for frame in parse(await read(log))] == ["error"]


async def test_a_log_past_its_bound_drops_the_oldest_and_tells() -> None:
    """LO-SYS-050."""
    log = filled(5_000, max_bytes=65_536)
    assert log.bytes <= 65_536
    first = parse(await read(log, log._dropped_through))[0].id
    assert first is not None
    assert first == log._dropped_through + 1 > 2_000
    assert [frame.id for frame in parse(await read(log, first - 1))] == list(
        range(first, log.last_id + 1)
    )
    assert log.keeps_all_after(first - 1)
    assert not log.keeps_all_after(first - 2)
    assert not log.keeps_all_after(0)
    assert await read(log, first - 2) == b""


async def test_one_large_event_does_not_lift_the_bound() -> None:
    log = filled(100, sealed=False, max_bytes=4_096)
    log.append_token("x" * 3_900)
    assert log.bytes <= 4_096
    assert log.keeps_all_after(100)
    assert not log.keeps_all_after(90)


async def test_a_reader_whose_events_were_dropped_is_ended_not_given_a_gap() -> None:
    log = filled(10, sealed=False, max_bytes=4_096)
    async with aclosing(log.follow(0)) as frames:
        assert parse(await anext(frames))[-1].id == 10
        for _ in range(200):
            log.append_token("more ")
        assert [frame async for frame in frames] == []


async def test_dismissed_readers_get_a_last_frame_without_an_id_and_the_log_goes_on() -> None:
    log = filled(2, sealed=False)
    farewell = encode_frame("error", b"{}", None)
    got = []

    async def reader() -> None:
        got.append(parse(await read(log)))

    async with anyio.create_task_group() as group:
        group.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        log.dismiss(farewell)
    assert [frame.id for frame in got[0]] == [1, 2, None]
    assert parse(await read(log, 2)) == [(None, "error", {})]
    assert log.last_id == 2
    assert not log.sealed


async def test_a_sealed_log_is_not_dismissed() -> None:
    log = filled(1)
    log.dismiss(encode_frame("error", b"{}", None))
    assert [frame.name for frame in parse(await read(log))] == ["token", "end"]


async def test_a_reader_of_a_long_finished_log_leaves_the_loop_to_others() -> None:
    log = filled(100_000)
    turns, longest, done = 0, 0, False

    async def others() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(others)
        await anyio.lowlevel.checkpoint()
        before = turns
        async for batch in log.follow(0):
            longest = max(longest, len(batch))
            assert turns >= before
            before = turns + 1
        done = True
    assert turns > 50
    assert longest < 70_000


async def test_a_reader_that_is_canceled_leaves_the_log_as_it_was() -> None:
    log = filled(1, sealed=False)
    async with anyio.create_task_group() as group:
        group.start_soon(read, log)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    log.append("end", END)
    assert len(parse(await read(log))) == 2
