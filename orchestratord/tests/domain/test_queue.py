"""The waiting line against one that is too simple to be wrong: LO-ORC-024."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contracts.tasks import Priority
from orchestratord.domain.queue import TaskQueue

CLASSES = (Priority.INTERACTIVE, Priority.BATCH)


class NaiveQueue:
    """A list that is sorted again for every question."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Priority, int, str]] = []

    @property
    def order(self) -> list[str]:
        """Task ids, the next one first."""
        ranked = sorted(self.waiting, key=lambda e: (CLASSES.index(e[0]), e[1]))
        return [task_id for _, _, task_id in ranked]

    def depth(self, priority: Priority) -> int:
        return sum(entry[0] is priority for entry in self.waiting)


class QueueMachine(RuleBasedStateMachine):
    """Pushes, removals and returns with an old sequence number, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = TaskQueue()
        self.model = NaiveQueue()
        self.left: list[tuple[Priority, int, str]] = []
        self.sequence = 0

    @rule(priority=st.sampled_from(CLASSES), count=st.integers(1, 40))
    def push(self, priority: Priority, count: int) -> None:
        for _ in range(count):
            self.sequence += 1
            self._put((priority, self.sequence, f"t{self.sequence}"))

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data(), count=st.integers(1, 30))
    def remove(self, data: st.DataObject, count: int) -> None:
        at = data.draw(st.integers(0, len(self.model.waiting) - 1))
        for _ in range(min(count, len(self.model.waiting))):
            entry = self.model.waiting.pop(at % len(self.model.waiting))
            self.queue.remove(entry[2], entry[0])
            self.left.append(entry)

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.left) - 1))
        self._put(self.left.pop(at))

    @invariant()
    def agrees_with_the_model(self) -> None:
        order = self.model.order
        assert self.queue.head() == (order[0] if order else None)
        assert len(self.queue) == len(order)
        for priority in CLASSES:
            assert self.queue.depth(priority) == self.model.depth(priority)
        of = {task_id: priority for priority, _, task_id in self.model.waiting}
        assert [self.queue.position(task_id, of[task_id]) for task_id in order] == list(
            range(len(order))
        )

    def _put(self, entry: tuple[Priority, int, str]) -> None:
        priority, sequence, task_id = entry
        self.queue.push(task_id, priority, sequence)
        self.model.waiting.append(entry)


QueueMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True
)
test_a_queue_agrees_with_a_naive_one = QueueMachine.TestCase


def test_ten_thousand_operations_agree_with_a_naive_queue() -> None:
    chance = random.Random(7)
    queue, model = TaskQueue(), NaiveQueue()
    left: list[tuple[Priority, int, str]] = []
    for step in range(10_000):
        roll = chance.random()
        if roll < 0.5 or not model.waiting:
            entry = (chance.choice(CLASSES), step, f"t{step}")
            model.waiting.append(entry)
            queue.push(entry[2], entry[0], entry[1])
        elif roll < 0.9 or not left:
            entry = model.waiting.pop(chance.randrange(len(model.waiting)))
            queue.remove(entry[2], entry[0])
            left.append(entry)
        else:
            entry = left.pop(chance.randrange(len(left)))
            model.waiting.append(entry)
            queue.push(entry[2], entry[0], entry[1])
        if step % 50 == 0 and model.waiting:
            priority, _, task_id = chance.choice(model.waiting)
            order = model.order
            assert queue.position(task_id, priority) == order.index(task_id)
            assert queue.head() == order[0]


def test_a_task_that_is_not_in_line_has_no_position() -> None:
    queue = TaskQueue()
    queue.push("a", Priority.BATCH, 1)
    with pytest.raises(KeyError):
        queue.position("a", Priority.INTERACTIVE)
    with pytest.raises(KeyError):
        queue.remove("b", Priority.BATCH)
    assert queue.head() == "a"


def test_a_line_that_is_used_for_ever_does_not_grow() -> None:
    queue = TaskQueue()
    for number in range(5_000):
        queue.push(f"t{number}", Priority.BATCH, number)
        if number >= 3:
            queue.remove(f"t{number - 3}", Priority.BATCH)
    line = queue._lines[Priority.BATCH]
    assert len(line._arrivals) <= len(line._tree) <= 65
