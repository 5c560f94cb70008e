"""A full queue that lets its oldest batch task go: LO-ORC-121."""

from __future__ import annotations

import pytest

from contracts.tasks import Priority
from orchestratord.domain.decisions import Admitted, Drop
from orchestratord.domain.scheduler import Scheduler
from orchestratord.errors import QueueFull
from orchestratord.tests.domain.scheduling import (
    NO_REPLICA,
    ONE,
    ask,
    candidate,
    committed,
    scheduler_of,
    task,
)

BATCH, INTERACTIVE = Priority.BATCH, Priority.INTERACTIVE


def line_of(*classes: Priority, capacity: int | None = None) -> Scheduler:
    """Tasks t0, t1, … of these classes, in a queue that they fill."""
    tasks = [task(number, priority) for number, priority in enumerate(classes)]
    size = len(classes) if capacity is None else capacity
    return scheduler_of(*tasks, capacity=size, policy="drop-lru")


def admit(scheduler: Scheduler, task_id: str, priority: Priority = INTERACTIVE) -> Admitted:
    return scheduler.admit(ask(task_id, priority), 0, 1, NO_REPLICA)


def commit(scheduler: Scheduler, admitted: Admitted, sequence: int = 1_000) -> list[Drop]:
    return scheduler.enqueue(committed(admitted, sequence, 0), admitted)


@pytest.mark.parametrize("newcomer", [BATCH, INTERACTIVE])
def test_the_oldest_batch_task_goes_and_nothing_else(newcomer: Priority) -> None:
    scheduler = line_of(INTERACTIVE, BATCH, BATCH, INTERACTIVE)
    assert commit(scheduler, admit(scheduler, "new", newcomer)) == [Drop("t1")]
    assert scheduler.position("t1", 0) is None
    order = ("t0", "t3", "new", "t2") if newcomer is INTERACTIVE else ("t0", "t3", "t2", "new")
    assert [scheduler.position(name, 0) for name in order] == [0, 1, 2, 3]
    assert scheduler.waiting("a") == 4


def test_nothing_goes_while_there_is_room() -> None:
    scheduler = line_of(BATCH, BATCH, capacity=3)
    assert commit(scheduler, admit(scheduler, "new")) == []


def test_a_queue_of_interactive_tasks_refuses() -> None:
    scheduler = line_of(INTERACTIVE, INTERACTIVE)
    for priority in (BATCH, INTERACTIVE):
        with pytest.raises(QueueFull) as refused:
            admit(scheduler, "new", priority)
        assert refused.value.policy_label == "drop-lru"
    assert scheduler.waiting("a") == 2


def test_a_running_batch_task_is_not_dropped() -> None:
    scheduler = line_of(BATCH, BATCH, capacity=1)
    scheduler.decide(0, ONE)
    assert commit(scheduler, admit(scheduler, "new")) == [Drop("t1")]
    assert scheduler.running("a") == 1


def test_nothing_goes_before_the_newcomer_is_committed() -> None:
    scheduler = line_of(BATCH, BATCH)
    admitted = admit(scheduler, "new")
    assert [scheduler.position(name, 0) for name in ("t0", "t1")] == [0, 1]
    scheduler.withdraw(admitted)
    assert [scheduler.position(name, 0) for name in ("t0", "t1")] == [0, 1]


def test_a_task_that_left_by_itself_meanwhile_is_room_enough() -> None:
    scheduler = line_of(BATCH, BATCH)
    admitted = admit(scheduler, "new")
    assert scheduler.cancel("t1")
    assert commit(scheduler, admitted) == []
    assert scheduler.position("t0", 0) == 1


def test_more_are_never_admitted_than_batch_tasks_can_make_room_for() -> None:
    scheduler = line_of(INTERACTIVE, BATCH, BATCH)
    first, second = admit(scheduler, "n1"), admit(scheduler, "n2")
    with pytest.raises(QueueFull):
        admit(scheduler, "n3")
    assert commit(scheduler, first, 1_001) == [Drop("t1")]
    assert commit(scheduler, second, 1_002) == [Drop("t2")]
    assert scheduler.waiting("a") == 3
    with pytest.raises(QueueFull):
        admit(scheduler, "n3")


def test_a_place_that_is_held_finds_room_although_the_batch_tasks_have_started() -> None:
    scheduler = line_of(BATCH, INTERACTIVE)
    admitted = admit(scheduler, "new")
    scheduler.decide(0, ONE)
    assert commit(scheduler, admitted) == []
    assert scheduler.waiting("a") == 2


def test_what_came_back_is_made_room_for_by_dropping_several() -> None:
    scheduler = line_of(BATCH, BATCH, BATCH)
    (start,) = scheduler.decide(0, ONE)
    commit(scheduler, admit(scheduler, "n1"), 1_001)
    scheduler.rerun(start.task_id)
    assert scheduler.waiting("a") == 4
    assert commit(scheduler, admit(scheduler, "n2"), 1_002) == [Drop("t0"), Drop("t1")]
    assert scheduler.waiting("a") == 3


def test_interactive_tasks_that_came_back_stay_however_many_they_are() -> None:
    scheduler = line_of(INTERACTIVE, INTERACTIVE)
    started = scheduler.decide(0, {"a": [candidate("a", 0, slots=2)]})
    admitted = admit(scheduler, "new")
    for start in started:
        scheduler.rerun(start.task_id)
    assert commit(scheduler, admitted) == []
    assert [scheduler.position(name, 0) for name in ("t0", "t1", "new")] == [0, 1, 2]


def test_a_starved_batch_task_may_be_dropped_too() -> None:
    scheduler = line_of(BATCH, INTERACTIVE)
    assert scheduler.position("t0", 300.0) == 0
    admitted = scheduler.admit(ask("new"), 300.0, 1, NO_REPLICA)
    assert commit(scheduler, admitted) == [Drop("t0")]


def test_a_task_of_an_earlier_life_drops_nothing() -> None:
    scheduler = line_of(BATCH, BATCH)
    assert scheduler.enqueue(task(9)) == []
    assert scheduler.waiting("a") == 3
