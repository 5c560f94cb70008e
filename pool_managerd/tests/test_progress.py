"""Whether an engine moves on, by its signs of life."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_managerd.domain.progress import Progress, Verdict

STALL, FIRST, CANARY = 1_000, 5_000, 3_000


def progress() -> Progress:
    return Progress(0, STALL, FIRST, CANARY)


def test_an_idle_engine_is_asked_for_a_token_after_its_time() -> None:
    """LO-POOL-155."""
    it = progress()
    assert it.verdict(CANARY - 1) is Verdict.FINE
    assert it.verdict(CANARY) is Verdict.CANARY_DUE
    it.moved(CANARY)
    assert it.verdict(2 * CANARY - 1) is Verdict.FINE


def test_work_that_moved_and_does_not_any_more_is_a_stall() -> None:
    """LO-POOL-154."""
    it = progress()
    it.loaded(1, 100)
    it.counted(5, 100)
    it.counted(6, 200)
    assert it.verdict(200 + STALL - 1) is Verdict.FINE
    assert it.verdict(200 + STALL) is Verdict.STALLED


def test_a_prefill_that_shows_nothing_yet_has_the_time_of_a_first_token() -> None:
    """LO-POOL-157."""
    it = progress()
    it.loaded(1, 100)
    assert it.verdict(100 + FIRST - 1) is Verdict.FINE
    assert it.verdict(100 + FIRST) is Verdict.STALLED


def test_a_long_prefill_that_shows_progress_is_never_a_stall() -> None:
    """LO-POOL-157."""
    it = progress()
    it.loaded(1, 0)
    for now in range(1, 100 * STALL, STALL - 1):
        it.moved(now)
        it.loaded(1, now)
        assert it.verdict(now) is Verdict.FINE


def test_the_first_count_is_no_sign_of_life() -> None:
    it = progress()
    it.loaded(1, 0)
    it.counted(1_000, 10)
    assert it.verdict(10 + STALL) is Verdict.FINE
    assert it.verdict(FIRST) is Verdict.STALLED


@pytest.mark.parametrize("in_flight", [0, 3])
@given(signs=st.lists(st.integers(1, STALL - 1), max_size=50))
def test_whoever_gives_a_sign_often_enough_is_fine(in_flight: int, signs: list[int]) -> None:
    it, now = progress(), 0
    it.loaded(in_flight, 0)
    for step in signs:
        now += step
        it.loaded(in_flight, now)
        it.moved(now)
        assert it.verdict(now + STALL - 1) is Verdict.FINE
