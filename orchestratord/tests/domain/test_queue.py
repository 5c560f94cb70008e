"""The waiting line against one that is too simple to be wrong: LO-ORC-024, LO-ORC-120."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contracts.tasks import Priority
from orchestratord.domain.prediction import Work
from orchestratord.domain.queue import Entry, TaskQueue
from orchestratord.tests.domain.scheduling import CLASSES, machine_settings

MAX_WAIT_S = 8.0

Waiting = tuple[Priority, Entry]


def entry(sequence: int, accepted_at: float = 0.0) -> Entry:
    """An entry whose work tells it from its neighbours."""
    expected = None if sequence % 3 else sequence % 7
    return Entry(
        f"t{sequence}", sequence, accepted_at, Work.of(sequence % 11, sequence % 5 + 1, expected)
    )


class NaiveQueue:
    """A list that is sorted again for every question."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []

    def order(self, now: float) -> list[Waiting]:
        """Everything in line, the next one first."""

        def rank(waiting: Waiting) -> tuple[int, int]:
            priority, found = waiting
            starved = priority is Priority.BATCH and found.accepted_at <= now - MAX_WAIT_S
            return -1 if starved else CLASSES.index(priority), found.sequence

        return sorted(self.waiting, key=rank)

    def of_class(self, priority: Priority) -> list[Entry]:
        found = [entry for own, entry in self.waiting if own is priority]
        return sorted(found, key=lambda entry: entry.sequence)


def ahead_of_new(model: NaiveQueue, priority: Priority, now: float) -> Work:
    """The work that goes before a newcomer: for an interactive one, no batch that may wait."""
    before = [
        found.work
        for own, found in model.order(now)
        if own is Priority.INTERACTIVE
        or priority is Priority.BATCH
        or found.accepted_at <= now - MAX_WAIT_S
    ]
    return sum(before, Work())


def assert_agree(queue: TaskQueue, model: NaiveQueue, now: float) -> None:
    """Every question has the same answer."""
    order = model.order(now)
    assert queue.head(now) == (order[0][1].task_id if order else None)
    assert len(queue) == len(order)
    oldest = model.of_class(Priority.BATCH)
    assert queue.oldest_batch() == (oldest[0].task_id if oldest else None)
    before = list(accumulate((found.work for _, found in order), initial=Work()))
    for position, (priority, found) in enumerate(order):
        assert queue.position(found.task_id, priority, now) == position
        assert queue.ahead(found.task_id, priority, now) == before[position]
    for priority in CLASSES:
        assert queue.depth(priority) == len(model.of_class(priority))
        assert queue.ahead_of_new(priority, now) == ahead_of_new(model, priority, now)


class QueueMachine(RuleBasedStateMachine):
    """Pushes, removals and returns with an old sequence number, in any order, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = TaskQueue(MAX_WAIT_S)
        self.model = NaiveQueue()
        self.left: list[Waiting] = []
        self.sequence = 0
        self.now = 0.0

    @rule(seconds=st.sampled_from((0.5, 1.0, 2.5, MAX_WAIT_S)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(priority=st.sampled_from(CLASSES), count=st.integers(1, 40))
    def push(self, priority: Priority, count: int) -> None:
        for _ in range(count):
            self.sequence += 1
            self._put((priority, entry(self.sequence, self.now)))

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data(), count=st.integers(1, 30))
    def remove(self, data: st.DataObject, count: int) -> None:
        at = data.draw(st.integers(0, len(self.model.waiting) - 1))
        for _ in range(min(count, len(self.model.waiting))):
            waiting = self.model.waiting.pop(at % len(self.model.waiting))
            self.queue.remove(waiting[1].task_id, waiting[0])
            self.left.append(waiting)

    @precondition(lambda self: self.model.waiting)
    @rule(count=st.integers(1, 10))
    def take_heads(self, count: int) -> None:
        for priority, found in self.model.order(self.now)[:count]:
            assert self.queue.head(self.now) == found.task_id
            self.queue.remove(found.task_id, priority)
            self.model.waiting.remove((priority, found))
            self.left.append((priority, found))

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.left) - 1))
        self._put(self.left.pop(at))

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert_agree(self.queue, self.model, self.now)

    def _put(self, waiting: Waiting) -> None:
        self.queue.push(waiting[1], waiting[0])
        self.model.waiting.append(waiting)


QueueMachine.TestCase.settings = machine_settings(examples=30, steps=30)
test_a_queue_agrees_with_a_naive_one = QueueMachine.TestCase


def test_ten_thousand_operations_agree_with_a_naive_queue() -> None:
    chance = random.Random(7)
    queue, model = TaskQueue(MAX_WAIT_S), NaiveQueue()
    left: list[Waiting] = []
    for step in range(10_000):
        roll, now = chance.random(), step / 64
        if roll < 0.5 or not model.waiting:
            waiting = (chance.choice(CLASSES), entry(step, now))
            model.waiting.append(waiting)
            queue.push(waiting[1], waiting[0])
        elif roll < 0.95 or not left:
            waiting = model.waiting.pop(chance.randrange(len(model.waiting)))
            queue.remove(waiting[1].task_id, waiting[0])
            left.append(waiting)
        else:
            waiting = left.pop(chance.randrange(len(left)))
            model.waiting.append(waiting)
            queue.push(waiting[1], waiting[0])
        if step % 1_000 == 0:
            assert_agree(queue, model, now)


def test_a_batch_task_waits_at_most_the_bound_and_the_batch_tasks_before_it() -> None:
    """LO-ORC-120: one task starts a second, and interactive ones never cease to come."""
    queue, accepted = TaskQueue(MAX_WAIT_S), dict[str, tuple[float, int]]()
    waits = list[float]()
    for second in range(200):
        for number in (2 * second, 2 * second + 1):
            queue.push(entry(1_000 + number, second), Priority.INTERACTIVE)
        if second % 10 < 3:
            accepted[f"t{second}"] = second, queue.depth(Priority.BATCH)
            queue.push(entry(second, second), Priority.BATCH)
        head = queue.head(second)
        assert head is not None
        queue.remove(head, Priority.BATCH if head in accepted else Priority.INTERACTIVE)
        if head in accepted:
            since, before = accepted.pop(head)
            waits.append(second - since)
            assert MAX_WAIT_S <= second - since <= MAX_WAIT_S + before
    assert len(waits) > 50
    assert all(second - since < MAX_WAIT_S + 3 for since, _ in accepted.values())


def test_a_batch_task_goes_first_from_the_bound_on_and_not_before() -> None:
    """LO-ORC-022, LO-ORC-120."""
    queue = TaskQueue(MAX_WAIT_S)
    queue.push(entry(1, 2.0), Priority.BATCH)
    queue.push(entry(2, 2.0), Priority.INTERACTIVE)
    assert [queue.head(2.0 + wait) for wait in (0.0, 7.9, 8.0)] == ["t2", "t2", "t1"]
    assert [queue.position("t1", Priority.BATCH, 2.0 + wait) for wait in (7.9, 8.0)] == [1, 0]
    assert [queue.position("t2", Priority.INTERACTIVE, 2.0 + wait) for wait in (7.9, 8.0)] == [0, 1]


def test_a_task_that_is_not_in_line_has_no_position() -> None:
    queue = TaskQueue(MAX_WAIT_S)
    queue.push(entry(1), Priority.BATCH)
    with pytest.raises(KeyError):
        queue.position("t1", Priority.INTERACTIVE, 0.0)
    with pytest.raises(KeyError):
        queue.ahead("t1", Priority.INTERACTIVE, 0.0)
    with pytest.raises(KeyError):
        queue.remove("t2", Priority.BATCH)
    assert queue.head(0.0) == "t1"


def test_a_line_that_grows_is_seldom_put_together_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """LO-ORC-129: over its growth each task is written a few times and no more."""
    queue, written = TaskQueue(MAX_WAIT_S), 0
    line = queue._lines[Priority.BATCH]
    append = line._append

    def counting(found: Entry) -> None:
        nonlocal written
        written += 1
        append(found)

    monkeypatch.setattr(line, "_append", counting)
    for number in range(20_000):
        queue.push(entry(number), Priority.BATCH)
    assert 20_000 < written <= 4 * 20_000


def test_a_line_that_is_used_for_ever_does_not_grow() -> None:
    queue = TaskQueue(MAX_WAIT_S)
    for number in range(5_000):
        queue.push(entry(number), Priority.BATCH)
        if number >= 3:
            queue.remove(f"t{number - 3}", Priority.BATCH)
    line = queue._lines[Priority.BATCH]
    assert len(line._entries) <= len(line._count) <= 65
