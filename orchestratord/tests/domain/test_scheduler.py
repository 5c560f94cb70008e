"""The promises a scheduler makes, by name."""

from __future__ import annotations

import pytest

from contracts.tasks import Priority
from orchestratord.domain.budgets import Amounts, Ledger
from orchestratord.domain.decisions import Expire, Start
from orchestratord.domain.sessions import CachePlace, Session
from orchestratord.domain.task_state import IllegalMove, Move
from orchestratord.errors import QueueFull
from orchestratord.tests.domain.scheduling import (
    NO_REPLICA,
    ONE,
    TERMS,
    ask,
    candidate,
    committed,
    run_alone,
    scheduler_of,
    task,
)


def test_interactive_goes_before_batch_and_first_come_first_within_a_class() -> None:
    """LO-ORC-022, LO-ORC-023."""
    classes = (Priority.BATCH, Priority.INTERACTIVE, Priority.BATCH, Priority.INTERACTIVE)
    scheduler = scheduler_of(*(task(n, priority) for n, priority in enumerate(classes)))
    order = []
    for _ in classes:
        (start,) = scheduler.decide(0, ONE)
        order.append(start.task_id)
        scheduler.finish(start.task_id, Move.SUCCEED, 10, 0)
    assert order == ["t1", "t3", "t0", "t2"]


def test_a_batch_task_that_waited_for_the_bound_goes_before_interactive_ones() -> None:
    """LO-ORC-120."""
    scheduler = scheduler_of(task(1, Priority.BATCH), task(2), batch_max_wait_s=30)
    assert [scheduler.position("t1", now) for now in (29.9, 30)] == [1, 0]
    assert [scheduler.position("t2", now) for now in (29.9, 30)] == [0, 1]
    assert scheduler.decide(30, ONE) == [Start("t1", "a/0", 1)]


def test_a_place_that_is_held_counts_until_it_is_given_back() -> None:
    """LO-ORC-020, LO-ORC-021."""
    scheduler = scheduler_of(capacity=1)
    admitted = scheduler.admit(ask("t1"), 0, 0, NO_REPLICA)
    with pytest.raises(QueueFull):
        scheduler.admit(ask("t2"), 0, 0, NO_REPLICA)
    scheduler.admit(ask("t3", pool_id="b"), 0, 0, NO_REPLICA)
    scheduler.withdraw(admitted)
    scheduler.admit(ask("t2"), 0, 0, NO_REPLICA)


@pytest.mark.parametrize("capacity", [1, 2, 100])
def test_a_queue_takes_exactly_as_many_as_it_may_hold(capacity: int) -> None:
    """LO-ORC-020, LO-ORC-021: half of them committed, half on their way."""
    scheduler = scheduler_of(capacity=capacity)
    admitted = 0
    for number in range(10 * capacity):
        try:
            found = scheduler.admit(ask(f"t{number}"), 0, 0, NO_REPLICA)
        except QueueFull:
            continue
        admitted += 1
        if number % 2:
            scheduler.enqueue(committed(found, number, 0), found)
    assert admitted == capacity


def test_a_task_that_is_admitted_and_not_enqueued_is_never_started() -> None:
    """LO-ORC-026."""
    scheduler = scheduler_of(capacity=1)
    admitted = scheduler.admit(ask("t1"), 0, 0, ONE["a"])
    assert scheduler.decide(0, ONE) == []
    assert scheduler.position("t1", 0) is None
    scheduler.enqueue(committed(admitted, 1, 0), admitted)
    assert scheduler.decide(0, ONE) == [Start("t1", "a/0", 1)]


def test_a_task_that_comes_back_is_next_although_others_came_meanwhile() -> None:
    scheduler = scheduler_of(task(1))
    scheduler.decide(0, ONE)
    scheduler.enqueue(task(2))
    scheduler.rerun("t1")
    assert [scheduler.position(name, 0) for name in ("t1", "t2")] == [0, 1]
    assert scheduler.decide(0, ONE) == [Start("t1", "a/0", 2)]


def test_tasks_that_come_back_find_room_in_a_full_queue() -> None:
    scheduler = scheduler_of(task(1), capacity=1)
    scheduler.decide(0, ONE)
    admitted = scheduler.admit(ask("t2"), 0, 0, ONE["a"])
    scheduler.enqueue(committed(admitted, 2, 0), admitted)
    scheduler.rerun("t1")
    assert [scheduler.position(name, 0) for name in ("t1", "t2")] == [0, 1]


def test_a_deadline_that_passes_while_it_runs_still_counts_when_it_comes_back() -> None:
    """LO-ORC-025."""
    scheduler = scheduler_of(task(1, deadline=5))
    assert scheduler.decide(0, ONE) == [Start("t1", "a/0", 1)]
    assert scheduler.decide(6, ONE) == []
    scheduler.rerun("t1")
    assert scheduler.decide(6, ONE) == [Expire("t1")]


def test_deadlines_of_tasks_that_left_are_not_kept_for_ever() -> None:
    scheduler = scheduler_of()
    for number in range(2_000):
        scheduler.enqueue(task(number, deadline=1e9))
        scheduler.cancel(f"t{number}")
    assert len(scheduler._deadlines) < 200


def test_a_deadline_does_not_outlive_its_task() -> None:
    """LO-ORC-025: an id may come again, once its first task is forgotten."""
    scheduler = scheduler_of(task(1, deadline=5))
    scheduler.cancel("t1")
    scheduler.enqueue(task(1))
    assert scheduler.decide(6, ONE) == [Start("t1", "a/0", 1)]


def test_an_expired_task_makes_room_in_the_same_decision() -> None:
    scheduler = scheduler_of(task(1, deadline=1), task(2))
    assert scheduler.decide(1, ONE) == [Expire("t1"), Start("t2", "a/0", 1)]


def test_ending_what_does_not_run_changes_nothing() -> None:
    scheduler = scheduler_of(task(1))
    with pytest.raises(IllegalMove):
        scheduler.rerun("t1")
    assert scheduler.position("t1", 0) == 0
    assert scheduler.cancel("t9") is False


def test_a_task_goes_where_its_session_has_its_cache() -> None:
    """LO-ORC-127: however little room is there, if a slot is free."""
    place = CachePlace("a/0", 0, 1)
    replicas = {"a": [candidate("a", 0, free=1), candidate("a", 1, free=24)]}
    warm = Session("s", 1, TERMS, 0.0, Ledger(), place=place)
    first, second = task(1), task(2)
    first.session = second.session = warm
    scheduler = scheduler_of(first, second, task(3))
    started = scheduler.decide(0, replicas)
    assert started == [Start("t1", "a/0", 1), Start("t2", "a/1", 1)]


def test_how_late_a_task_starts_is_told_of_its_first_attempt() -> None:
    predicted = task(1)
    predicted.predicted_start_at = 2.0
    scheduler = scheduler_of(predicted)
    assert scheduler.decide(5, ONE) == [Start("t1", "a/0", 1, 3_000.0)]
    scheduler.rerun("t1")
    assert scheduler.decide(9, ONE) == [Start("t1", "a/0", 2, None)]


@pytest.mark.parametrize("ending", [Move.FAIL, Move.CANCEL])
def test_nothing_is_learned_from_an_attempt_that_was_cut_short(ending: Move) -> None:
    scheduler = scheduler_of()
    run_alone(scheduler, prompt_tokens=10, tokens_out=10, seconds=2)
    before = repr(scheduler._pools["a"].rates)
    scheduler.enqueue(task(1))
    scheduler.decide(10, ONE)
    progress = scheduler._tasks["t1"].progress
    assert progress is not None
    progress.started_at, progress.prompt_tokens = 10.0, 10
    progress.first_token_at, progress.last_token_at = 11.0, 20.0
    scheduler.finish("t1", ending, 5, 20)
    assert repr(scheduler._pools["a"].rates) == before


def test_a_session_learns_how_much_of_its_allowance_it_uses() -> None:
    scheduler = scheduler_of()
    admitted = scheduler.admit(ask("t1", session_id="s", max_tokens=100), 0, 1, ONE["a"])
    one = committed(admitted, 1, 0)
    scheduler.enqueue(one, admitted)
    scheduler.decide(0, ONE)
    assert one.session is not None
    scheduler.sessions.settle(one.session, "t1", one.hold, Amounts(), 0)
    scheduler.finish("t1", Move.SUCCEED, 25, 0)
    later = scheduler.admit(ask("t2", session_id="s", max_tokens=200), 0, 1, ONE["a"])
    assert (later.work.guided, later.work.unguided) == (50, 0)
    told = ask("t3", session_id="s", max_tokens=200, expected_tokens=7)
    assert scheduler.admit(told, 0, 1, ONE["a"]).work.guided == 7
