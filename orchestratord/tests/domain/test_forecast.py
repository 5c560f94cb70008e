"""What a pool foretells of a task: its start, its end, and whether it will be on time."""

from __future__ import annotations

import pytest

from contracts.tasks import Priority
from orchestratord.domain.placement import Candidate
from orchestratord.domain.prediction import Forecast
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.task_state import Move
from orchestratord.tests.domain.scheduling import (
    NO_REPLICA,
    ONE,
    ask,
    candidate,
    committed,
    run_alone,
    scheduler_of,
    task,
)

TWO_SLOTS = [candidate("a", 0, slots=2)]


def taught(now: float = 0.0, seconds: float = 2.0) -> Scheduler:
    """One that has seen 100 tokens in and 101 out, each in half of `seconds`."""
    scheduler = scheduler_of()
    run_alone(scheduler, prompt_tokens=100, tokens_out=101, seconds=seconds, now=now)
    return scheduler


def line_up(scheduler: Scheduler, count: int, priority: Priority = Priority.INTERACTIVE) -> None:
    """Tasks that take 2 s each, by what was taught: they are named after their class."""
    for number in range(count):
        asked = ask(f"{priority.value}{number}", priority)
        admitted = scheduler.admit(asked, 2.0, 1, NO_REPLICA)
        scheduler.enqueue(committed(admitted, number, 2.0), admitted)


def start_ms(scheduler: Scheduler, task_id: str, replicas: list[Candidate]) -> float | None:
    forecast = scheduler.forecast(task_id, 2.0, replicas)
    assert forecast is not None
    return forecast.start_ms


def test_nothing_is_foretold_until_a_rate_is_known() -> None:
    """LO-ORC-128."""
    scheduler = scheduler_of(task(1), task(2))
    assert scheduler.forecast("t2", 0, ONE["a"]) == Forecast(1, None, None)
    assert scheduler.admit(ask("t3"), 0, 1, ONE["a"]).forecast == Forecast(2, None, None)


def test_a_task_that_is_not_in_line_has_no_forecast() -> None:
    scheduler = taught()
    line_up(scheduler, 1)
    assert scheduler.forecast("unknown", 2.0, ONE["a"]) is None
    scheduler.decide(2.0, ONE)
    assert scheduler.forecast("interactive0", 2.0, ONE["a"]) is None


def test_a_start_is_when_the_slots_have_absorbed_the_work_ahead() -> None:
    """LO-ORC-128: tasks of 2 s each on two slots."""
    scheduler = taught()
    line_up(scheduler, 5)
    starts = [start_ms(scheduler, f"interactive{n}", TWO_SLOTS) for n in range(5)]
    assert starts == pytest.approx([0, 0, 2_000, 2_000, 4_000], abs=30)


def test_what_runs_delays_the_line_by_what_is_left_of_it() -> None:
    """LO-ORC-128."""
    scheduler = taught()
    line_up(scheduler, 3)
    scheduler.decide(2.0, {"a": TWO_SLOTS})
    waiting = scheduler.forecast("interactive2", 2.5, TWO_SLOTS)
    assert waiting is not None
    assert waiting.start_ms == pytest.approx(1_500, abs=30)
    assert waiting.end_ms == pytest.approx(3_500, abs=30)


def test_a_batch_task_waits_for_all_and_an_interactive_one_for_its_class() -> None:
    """LO-ORC-022, LO-ORC-128."""
    scheduler = taught()
    line_up(scheduler, 2, Priority.BATCH)
    line_up(scheduler, 2)
    assert start_ms(scheduler, "interactive1", ONE["a"]) == pytest.approx(2_000, abs=30)
    assert start_ms(scheduler, "batch1", ONE["a"]) == pytest.approx(6_000, abs=30)
    newcomers = [
        scheduler.admit(ask("t", priority), 2.0, 1, ONE["a"]).forecast
        for priority in (Priority.INTERACTIVE, Priority.BATCH)
    ]
    assert [found.position for found in newcomers] == [2, 4]
    assert [found.start_ms for found in newcomers] == pytest.approx([4_000, 8_000], abs=50)


def test_what_a_client_expects_counts_for_more_than_what_it_allows() -> None:
    scheduler = taught()
    asked = ask("t", max_tokens=10_000, prompt_tokens=100, expected_tokens=100)
    run_ms = scheduler.admit(asked, 2.0, 1, ONE["a"]).forecast.run_ms
    assert run_ms == pytest.approx(2_000, abs=30)


def test_a_replica_that_is_coming_up_has_slots_from_then_on() -> None:
    """LO-ORC-128."""
    scheduler = taught()
    line_up(scheduler, 4)
    loading = candidate("a", 1, ready=False, ready_in_ms=3_000.0)
    both = [candidate("a", 0), loading]
    starts = [start_ms(scheduler, f"interactive{n}", both) for n in range(4)]
    assert starts == pytest.approx([0, 2_000, 3_000, 4_000], abs=30)
    assert start_ms(scheduler, "interactive0", [loading]) == pytest.approx(3_000)


def test_a_replica_nobody_can_date_is_left_out() -> None:
    """LO-ORC-128."""
    scheduler = taught()
    line_up(scheduler, 2)
    undated = candidate("a", 1, slots=8, ready=False)
    assert start_ms(scheduler, "interactive1", [candidate("a", 0), undated]) == pytest.approx(
        2_000, abs=30
    )
    forecast = scheduler.forecast("interactive1", 2.0, [undated])
    assert forecast is not None
    assert (forecast.start_ms, forecast.end_ms) == (None, None)
    assert forecast.run_ms == pytest.approx(2_000, abs=30)


def test_a_line_is_estimated_anew_when_the_engine_turns_out_slower() -> None:
    """LO-ORC-128: without touching what waits."""
    scheduler = taught()
    line_up(scheduler, 3)
    before = start_ms(scheduler, "interactive2", ONE["a"])
    for _ in range(3):
        (start,) = scheduler.decide(2.0, ONE)
        running = scheduler._tasks[start.task_id]
        assert running.progress is not None
        running.progress.started_at, running.progress.prompt_tokens = 2.0, 100
        running.progress.first_token_at, running.progress.last_token_at = 6.0, 10.0
        scheduler.rerun(start.task_id)
        scheduler._pools["a"].rates.learn(running.progress, 101, 101)
    after = start_ms(scheduler, "interactive2", ONE["a"])
    assert before is not None
    assert after is not None
    assert after > 1.3 * before


def test_what_a_task_holds_its_slot_for_beside_its_tokens_counts() -> None:
    """LO-ORC-128: a quarter of a second before the engine, another one after."""
    scheduler = scheduler_of(task(1))
    scheduler.decide(0.0, ONE)
    progress = scheduler._tasks["t1"].progress
    assert progress is not None
    progress.started_at, progress.prompt_tokens = 0.25, 10
    progress.first_token_at, progress.last_token_at = 1.25, 2.25
    scheduler.finish("t1", Move.SUCCEED, 10, 2.5)
    assert scheduler._pools["a"].rates.overhead_ms.value == pytest.approx(500)
    told = scheduler.admit(ask("t", prompt_tokens=10, max_tokens=9), 3, 1, ONE["a"]).forecast
    assert told.run_ms == pytest.approx(2_500)


def test_the_chance_to_be_on_time() -> None:
    scheduler, unknown = taught(), scheduler_of(task(1, deadline=9.0))
    assert unknown.on_time(unknown._tasks["t1"], 0, ONE["a"]) is None
    line_up(scheduler, 2)
    waiting = scheduler._tasks["interactive1"]
    assert scheduler.on_time(waiting, 2.0, ONE["a"]) == 1
    found = list[float | None]()
    for seconds in (0.9, 4.1, 17.0):
        waiting.deadline = 2.0 + seconds
        found.append(scheduler.on_time(waiting, 2.0, ONE["a"]))
    assert found == pytest.approx([0, 4 / 7, 1])
    scheduler.decide(2.0, {"a": TWO_SLOTS})
    waiting.deadline = 4.1
    assert scheduler.on_time(waiting, 2.0, TWO_SLOTS) == pytest.approx(4 / 7)
    assert scheduler.on_time(waiting, 4.2, TWO_SLOTS) == 0


def test_errors_of_prediction_are_learned_from_what_succeeded() -> None:
    scheduler = taught()
    line_up(scheduler, 1)
    one = scheduler._tasks["interactive0"]
    one.predicted_ms = 4_000
    scheduler.decide(2.0, ONE)
    scheduler.finish("interactive0", Move.SUCCEED, 100, 8.0)
    assert scheduler._pools["a"].rates.ratios._sorted == [1.5]
