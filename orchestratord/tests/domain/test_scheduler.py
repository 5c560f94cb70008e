"""The scheduler against a model, and the promises it makes by name: LO-ORC-033."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contracts.tasks import Priority, TaskState
from orchestratord.domain.placement import Candidate, choose
from orchestratord.domain.scheduler import Expire, ScheduledTask, Scheduler, Start
from orchestratord.domain.task_state import IllegalMove, Move
from orchestratord.errors import QueueFull

POOLS = ("a", "b")
CLASSES = (Priority.INTERACTIVE, Priority.BATCH)
CAPACITY = 6
WAITS = (None, 0.0, 1.0, 3.0)
ENDINGS = (Move.SUCCEED, Move.FAIL, Move.CANCEL)


def candidate(pool_id: str, number: int, slots: int = 1, free: int = 0) -> Candidate:
    return Candidate(f"{pool_id}/{number}", slots > 0, slots, 0, free)


replicas_of_pools = st.fixed_dictionaries(
    {},
    optional={
        pool_id: st.lists(
            st.builds(
                candidate,
                st.just(pool_id),
                st.integers(0, 2),
                st.integers(0, 3),
                st.sampled_from((0, 12, 24)),
            ),
            max_size=3,
            unique_by=lambda c: c.replica_id,
        )
        for pool_id in POOLS
    },
)


class SchedulerMachine(RuleBasedStateMachine):
    """Everything a dispatcher may do, in any order, with replicas that come and go.

    The model is a dict of live tasks and a place held for each reservation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(POOLS, CAPACITY)
        self.live: dict[str, ScheduledTask] = {}
        self.reserved = Counter(dict.fromkeys(POOLS, 0))
        self.active: Counter[str] = Counter()
        self.gone: list[str] = []
        self.candidates = {pool_id: [candidate(pool_id, 0, slots=2)] for pool_id in POOLS}
        self.sequence = 0
        self.now = 0.0

    @rule(found=replicas_of_pools)
    def replicas_change(self, found: dict[str, list[Candidate]]) -> None:
        self.candidates = found

    @rule(seconds=st.sampled_from((0.5, 1.0, 4.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.decide()

    @rule(pool_id=st.sampled_from(POOLS))
    def reserve(self, pool_id: str) -> None:
        if len(self._queued(pool_id)) + self.reserved[pool_id] >= CAPACITY:
            with pytest.raises(QueueFull):
                self.scheduler.reserve(pool_id)
        else:
            self.scheduler.reserve(pool_id)
            self.reserved[pool_id] += 1

    @precondition(lambda self: self.reserved.total())
    @rule(data=st.data(), commits=st.booleans(), wait=st.sampled_from(WAITS))
    def commit_ends(self, data: st.DataObject, commits: bool, wait: float | None) -> None:
        held = [pool_id for pool_id in POOLS if self.reserved[pool_id]]
        pool_id = data.draw(st.sampled_from(held))
        self.scheduler.release(pool_id)
        self.reserved[pool_id] -= 1
        if commits:
            self._enqueue(pool_id, data.draw(st.sampled_from(CLASSES)), wait)

    @rule(
        pool_id=st.sampled_from(POOLS),
        priority=st.sampled_from(CLASSES),
        wait=st.sampled_from(WAITS),
    )
    def recover(self, pool_id: str, priority: Priority, wait: float | None) -> None:
        self._enqueue(pool_id, priority, wait)
        self.decide()

    @rule()
    def decide(self) -> None:
        decisions = self.scheduler.decide(self.now, self.candidates)
        expired = {d.task_id for d in decisions if isinstance(d, Expire)}
        assert expired == {
            task_id
            for task_id, task in self.live.items()
            if task.state is TaskState.QUEUED
            and task.deadline is not None
            and task.deadline <= self.now
        }
        for task_id in expired:
            self._forget(task_id)
        for decision in decisions[len(expired) :]:
            assert isinstance(decision, Start)
            self._check_start(decision)
        for pool_id in POOLS:
            assert not self._queued(pool_id) or self._best(pool_id) is None

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = self._any_task(data)
        queued = task.state is TaskState.QUEUED
        assert self.scheduler.cancel(task.task_id) is queued
        if queued:
            self._forget(task.task_id)

    @precondition(lambda self: self.active.total())
    @rule(data=st.data(), move=st.sampled_from((*ENDINGS, Move.RERUN)))
    def attempt_ends(self, data: st.DataObject, move: Move) -> None:
        running = [t for t in self.live.values() if t.state is TaskState.RUNNING]
        task = data.draw(st.sampled_from(running))
        assert task.replica_id is not None
        self.active[task.replica_id] -= 1
        if move is Move.RERUN:
            self.scheduler.rerun(task.task_id)
            task.state, task.replica_id = TaskState.QUEUED, None
        else:
            self.scheduler.finish(task.task_id, move)
            self._forget(task.task_id)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        for pool_id in POOLS:
            queued = self._queued(pool_id)
            assert [self.scheduler.position(task_id) for task_id in queued] == list(
                range(len(queued))
            )
            depths = {p: self.scheduler.depth(pool_id, p) for p in CLASSES}
            assert depths == {p: sum(self.live[t].priority is p for t in queued) for p in CLASSES}
            assert self.scheduler.running(pool_id) == sum(
                t.state is TaskState.RUNNING and t.pool_id == pool_id for t in self.live.values()
            )
        for replica_id, active in self.active.items():
            assert self.scheduler.active(replica_id) == active
        assert all(self.scheduler.position(task_id) is None for task_id in self.gone)

    def _enqueue(self, pool_id: str, priority: Priority, wait: float | None) -> None:
        self.sequence += 1
        deadline = None if wait is None else self.now + wait
        task = ScheduledTask(f"t{self.sequence}", pool_id, priority, self.sequence, deadline)
        self.live[task.task_id] = replace(task)
        self.scheduler.enqueue(task)

    def _check_start(self, start: Start) -> None:
        """It is the head of its line, in time, and on the best replica with a free slot."""
        task = self.live[start.task_id]
        assert task.task_id == self._queued(task.pool_id)[0]
        assert task.deadline is None or task.deadline > self.now
        best = self._best(task.pool_id)
        assert best is not None
        assert start.replica_id == best.replica_id
        assert self.active[best.replica_id] < best.slots_total
        task.attempt += 1
        assert start.attempt == task.attempt
        task.state, task.replica_id = TaskState.RUNNING, start.replica_id
        self.active[start.replica_id] += 1

    def _queued(self, pool_id: str) -> list[str]:
        waiting = [
            task
            for task in self.live.values()
            if task.pool_id == pool_id and task.state is TaskState.QUEUED
        ]
        waiting.sort(key=lambda t: (CLASSES.index(t.priority), t.sequence))
        return [task.task_id for task in waiting]

    def _best(self, pool_id: str) -> Candidate | None:
        replicas = self.candidates.get(pool_id, [])
        return choose(replace(c, active=self.active[c.replica_id]) for c in replicas)

    def _any_task(self, data: st.DataObject) -> ScheduledTask:
        return self.live[data.draw(st.sampled_from(sorted(self.live)))]

    def _forget(self, task_id: str) -> None:
        del self.live[task_id]
        self.gone.append(task_id)


SchedulerMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, derandomize=True
)
test_a_scheduler_agrees_with_its_model = SchedulerMachine.TestCase

ONE = {"a": [candidate("a", 0)]}


def scheduler_with(*tasks: ScheduledTask, capacity: int = CAPACITY) -> Scheduler:
    scheduler = Scheduler(POOLS, capacity)
    for task in tasks:
        scheduler.enqueue(task)
    return scheduler


def task(
    number: int, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None
) -> ScheduledTask:
    return ScheduledTask(f"t{number}", "a", priority, number, deadline)


def test_interactive_goes_before_batch_and_first_come_first_within_a_class() -> None:
    """LO-ORC-022, LO-ORC-023."""
    classes = (Priority.BATCH, Priority.INTERACTIVE, Priority.BATCH, Priority.INTERACTIVE)
    scheduler = scheduler_with(*(task(n, priority) for n, priority in enumerate(classes)))
    order = []
    for _ in classes:
        (start,) = scheduler.decide(0, ONE)
        order.append(start.task_id)
        scheduler.finish(start.task_id, Move.SUCCEED)
    assert order == ["t1", "t3", "t0", "t2"]


def test_a_place_that_is_held_counts_until_it_is_given_back() -> None:
    """LO-ORC-020, LO-ORC-021."""
    scheduler = Scheduler(POOLS, capacity=1)
    scheduler.reserve("a")
    with pytest.raises(QueueFull):
        scheduler.reserve("a")
    scheduler.reserve("b")
    scheduler.release("a")
    scheduler.reserve("a")


def test_a_task_that_is_reserved_and_not_enqueued_is_never_started() -> None:
    """LO-ORC-026."""
    scheduler = Scheduler(POOLS, capacity=1)
    scheduler.reserve("a")
    assert scheduler.decide(0, ONE) == []


def test_a_task_that_comes_back_is_next_although_others_came_meanwhile() -> None:
    scheduler = scheduler_with(task(1))
    scheduler.decide(0, ONE)
    scheduler.enqueue(task(2))
    scheduler.rerun("t1")
    assert [scheduler.position(name) for name in ("t1", "t2")] == [0, 1]
    assert scheduler.decide(0, ONE) == [Start("t1", "a/0", 2)]


def test_a_deadline_that_passes_while_it_runs_still_counts_when_it_comes_back() -> None:
    """LO-ORC-025."""
    scheduler = scheduler_with(task(1, deadline=5))
    assert scheduler.decide(0, ONE) == [Start("t1", "a/0", 1)]
    assert scheduler.decide(6, ONE) == []
    scheduler.rerun("t1")
    assert scheduler.decide(6, ONE) == [Expire("t1")]


def test_deadlines_of_tasks_that_left_are_not_kept_for_ever() -> None:
    scheduler = scheduler_with()
    for number in range(2_000):
        scheduler.enqueue(task(number, deadline=1e9))
        scheduler.cancel(f"t{number}")
    assert len(scheduler._deadlines) < 200


def test_an_expired_task_makes_room_in_the_same_decision() -> None:
    scheduler = scheduler_with(task(1, deadline=1), task(2))
    assert scheduler.decide(1, ONE) == [Expire("t1"), Start("t2", "a/0", 1)]


def test_ending_what_does_not_run_changes_nothing() -> None:
    scheduler = scheduler_with(task(1))
    with pytest.raises(IllegalMove):
        scheduler.rerun("t1")
    assert scheduler.position("t1") == 0
    assert scheduler.cancel("t9") is False
