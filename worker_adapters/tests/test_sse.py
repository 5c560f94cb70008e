"""The parser of event streams."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_adapters.sse import EventParser, EventTooLong

LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
# Every character that `str.splitlines` would break at and the format does not.
TEXT = st.text(
    st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])
    | st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e")
)


def parsed(chunks: list[bytes]) -> list[bytes]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """What the events are, and one way to write them down."""
    events, wire = [], b"\xef\xbb\xbf" if draw(st.booleans()) else b""
    for texts in draw(st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=5)):
        end = draw(LINE_ENDS)
        if draw(st.booleans()):
            wire += b": a comment" + draw(LINE_ENDS)
        if draw(st.booleans()):
            wire += b"event: foreign" + draw(LINE_ENDS)
        for text in texts:
            wire += b"data:" + draw(st.sampled_from([b"", b" "])) + b"|" + text.encode() + end
        wire += draw(LINE_ENDS) if end == b"\n" else end
        events.append(b"\n".join(b"|" + text.encode() for text in texts))
    return events, wire


@st.composite
def cut(draw: st.DrawFn, wire: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    return [wire[a:b] for a, b in zip([0, *places], [*places, len(wire)], strict=True)]


@given(st.data())
def test_any_cut_of_a_stream_gives_the_same_events(data: st.DataObject) -> None:
    """LO-WRK-004, LO-WRK-005."""
    events, wire = data.draw(streams())
    assert parsed([wire]) == events
    assert parsed(data.draw(cut(wire))) == events
    assert parsed([wire[i : i + 1] for i in range(len(wire))]) == events


def test_an_event_of_several_data_lines_is_joined_by_lf() -> None:
    assert parsed([b"data: a\ndata\ndata:b\n\n"]) == [b"a\n\nb"]


def test_only_one_space_after_the_colon_is_dropped() -> None:
    assert parsed([b"data:  a \n\n"]) == [b" a "]


def test_fields_that_only_begin_like_data_are_ignored() -> None:
    assert parsed([b"database: a\nid: 1\nretry: 2\n\ndata: b\n\n"]) == [b"b"]


def test_an_incomplete_event_is_none() -> None:
    assert parsed([b"data: a\n\ndata: b\n"]) == [b"a"]


def test_a_final_cr_ends_its_event_at_once() -> None:
    assert parsed([b"data: a\r\r"]) == [b"a"]


def test_a_byte_order_mark_inside_is_data() -> None:
    assert parsed([b"data: a\n\n", b"\xef\xbb\xbfdata: b\n\n"]) == [b"a"]


@pytest.mark.parametrize("chunk", [b"x" * 40, b"data: x\n" * 6])
def test_an_event_may_reach_its_bound_and_not_pass_it(chunk: bytes) -> None:
    """LO-WRK-006."""
    EventParser(max_bytes=40).feed(chunk[:40])
    with pytest.raises(EventTooLong):
        EventParser(max_bytes=10).feed(chunk)


def test_a_line_of_one_byte_slices_is_bounded_without_a_line_end() -> None:
    """LO-WRK-006."""
    parser = EventParser(max_bytes=1000)
    for _ in range(1000):
        parser.feed(b"x")
    with pytest.raises(EventTooLong):
        parser.feed(b"x")


def test_an_event_of_many_short_lines_takes_no_more_than_its_bytes() -> None:
    """LO-WRK-006: as a list of lines it would take fourteen times as much."""
    parser = EventParser(max_bytes=300_000)
    tracemalloc.start()
    try:
        for _ in range(100_000):
            parser.feed(b"data: ab\n")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 300_000


def test_comments_without_end_take_no_room() -> None:
    parser = EventParser(max_bytes=100)
    for _ in range(1000):
        assert parser.feed(b": still here\n") == []
