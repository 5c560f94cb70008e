"""A wall clock that jumps."""

from __future__ import annotations

import time

import pytest

from orchestratord.clock import SystemClock

HOUR_NS = 3_600 * 10**9


@pytest.mark.parametrize("hours", [-24, -1, 1, 24])
def test_a_wall_clock_that_is_set_moves_no_row(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """LO-ORC-151."""
    clock = SystemClock()
    before, real = clock.unix_ms(), time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + hours * HOUR_NS)
    assert 0 <= clock.unix_ms() - before < 10_000
    assert abs(SystemClock().unix_ms() - before - hours * HOUR_NS // 10**6) < 10_000


def test_the_time_of_day_is_that_of_the_machine() -> None:
    assert abs(SystemClock().unix_ms() - time.time_ns() // 10**6) < 10_000
