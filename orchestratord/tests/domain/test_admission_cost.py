"""What an admission costs at any length of the line: LO-ORC-129.

Counted in executed lines of the domain, which are the same on every machine,
and in time, with a generous bound.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter
from types import FrameType
from typing import Any

import pytest

from orchestratord.domain.budgets import NOTHING
from orchestratord.domain.scheduler import Scheduler
from orchestratord.tests.domain.scheduling import (
    CLASSES,
    ask,
    candidate,
    committed,
    run_alone,
    scheduler_of,
    task,
)

SHORT = 10
SLOTS = [candidate("a", 0, slots=4), candidate("a", 1, slots=2)]
NOW = 2.0


def scheduler_with_line(length: int) -> Scheduler:
    """One that knows its rates, so that nothing is left out of a prediction."""
    scheduler = scheduler_of(capacity=1_000_000)
    assert run_alone(scheduler, prompt_tokens=100, tokens_out=101, seconds=NOW) == NOW
    for number in range(length):
        scheduler.enqueue(task(number, CLASSES[number % 2], accepted_at=NOW))
    return scheduler


def come_and_go(scheduler: Scheduler, numbers: range) -> None:
    """Tasks that are admitted, put in line, asked about and canceled; the line stays as long."""
    for number in numbers:
        asked = ask(
            f"n{number}", CLASSES[number % 2], deadline_ms=10**8, session_id=f"s{number % 50}"
        )
        admitted = scheduler.admit(asked, NOW, 1, SLOTS)
        scheduler.enqueue(committed(admitted, 1_000_000 + number, NOW), admitted)
        assert scheduler.position(asked.task_id, NOW) is not None
        assert scheduler.forecast(asked.task_id, NOW, SLOTS) is not None
        assert scheduler.backoff_ms("a", NOW, SLOTS) == 0
        assert scheduler.decide(NOW, {}) == []
        assert scheduler.cancel(asked.task_id)
        assert admitted.session is not None
        scheduler.sessions.settle(admitted.session, asked.task_id, admitted.hold, NOTHING, NOW)


def lines_of(work: Callable[[], None]) -> int:
    """Lines of the domain that are executed by `work`."""
    counted = 0

    def in_frame(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal counted
        counted += event == "line"
        return in_frame

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        return in_frame if "/domain/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        work()
    finally:
        sys.settrace(before)
    return counted


def seconds_of(scheduler: Scheduler) -> float:
    """For 200 tasks, the best of several goes."""
    goes = []
    for go in range(5):
        began = perf_counter()
        come_and_go(scheduler, range(1_000 + go * 200, 1_200 + go * 200))
        goes.append(perf_counter() - began)
    return min(goes)


@pytest.mark.parametrize("length", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_task_costs_the_same_in_a_short_line_and_in_a_long_one(length: int) -> None:
    short, long = scheduler_with_line(SHORT), scheduler_with_line(length)
    lines = [lines_of(partial(come_and_go, s, range(50))) for s in (short, long)]
    assert lines[1] <= 4 * lines[0]
    assert seconds_of(long) <= 8 * seconds_of(short)
    assert long.waiting("a") == length
