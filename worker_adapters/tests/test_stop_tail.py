"""A stop string is no part of a text, whatever the engine sends along."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_adapters.stop_tail import StopTail


def said(stops: list[str], pieces: list[str]) -> tuple[list[str], str, bool]:
    tail = StopTail(stops)
    before = [tail.add(piece) for piece in pieces]
    return before, *tail.end()


def test_without_stop_strings_nothing_is_held_back() -> None:
    """LO-WRK-150."""
    assert said([], ["a", "b"]) == (["a", "b"], "", False)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    """LO-WRK-150."""
    assert said(["END"], ["say E", "N", "K", "END"]) == (["say ", "", "ENK", ""], "", True)


@pytest.mark.parametrize("pieces", [["a stop"], ["a", " ", "s", "t", "o", "p"], ["a st", "op"]])
def test_the_stop_string_is_cut_off_however_it_came(pieces: list[str]) -> None:
    """LO-WRK-150."""
    before, rest, stopped = said([" stop", "other"], pieces)
    assert ("".join(before) + rest, stopped) == ("a", True)


def test_the_beginning_of_a_stop_string_at_the_end_is_text() -> None:
    """LO-WRK-150."""
    assert said(["END"], ["the EN"]) == (["the "], "EN", False)


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
    st.lists(st.text("ab", max_size=3), max_size=12),
)
def test_nothing_is_lost_and_nothing_added(stops: list[str], pieces: list[str]) -> None:
    """LO-WRK-150: it is the text, less the stop string that it ends with."""
    before, rest, stopped = said(stops, pieces)
    text, given_back = "".join(pieces), "".join(before) + rest
    endings = [stop for stop in stops if text.endswith(stop)]
    assert stopped == bool(endings)
    assert (given_back in {text.removesuffix(stop) for stop in endings}) if endings else True
    assert endings or given_back == text
