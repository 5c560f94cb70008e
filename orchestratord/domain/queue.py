"""The waiting line of one pool: two classes, first in first out within each.

Every interactive task goes before every batch task, until a batch task has
waited for the starvation bound: from then on it goes before all interactive
ones, in the order of its class.  So a batch task waits at most the bound and
the work of the batch tasks before it.

A task's position is the number of tasks that would start before it, and with
the work of those its start is predicted.  Both are asked for at every POST and
every status poll, so they must not cost a walk of the line: each class keeps
Fenwick trees over arrival order (P. Fenwick, "A new data structure for
cumulative frequency tables", 1994), which makes a push, a removal anywhere, a
position and the work ahead O(log n).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from contracts.tasks import Priority
from orchestratord.domain.prediction import Work

_SMALLEST_TREE = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """A task in line: its place is its `sequence`; `accepted_at` in monotonic seconds."""

    task_id: str
    sequence: int
    accepted_at: float
    work: Work


class _Line:
    """One class: entries in order of `sequence`, with running sums."""

    def __init__(self) -> None:
        self._first = 0
        self._rebuild([])

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._place

    def push(self, entry: Entry) -> None:
        """Add a task at the place its sequence number gives it.

        New tasks have the highest number and join the end.  One that lost its
        replica comes back with its old number and takes the hole it left; where
        that is gone with an earlier rebuild, it pays for another one.
        """
        place = bisect_left(self._entries, entry.sequence, key=lambda e: e.sequence)
        if place == len(self._entries) < len(self._count) - 1:
            self._append(entry)
        elif place < len(self._entries) and self._entries[place].sequence == entry.sequence:
            self._refill(place, entry)
        else:
            self._rebuild(sorted([*self._waiting(), entry], key=lambda e: e.sequence))

    def remove(self, task_id: str) -> None:
        """Take a task out; raises KeyError when it is not in line."""
        place = self._place.pop(task_id)
        self._add(place + 1, self._entries[place].work, -1)

    def head(self) -> Entry | None:
        """The entry that is next, or None."""
        while self._first < len(self._entries):
            entry = self._entries[self._first]
            if self._place.get(entry.task_id) == self._first:
                return entry
            self._first += 1
        return None

    def rank(self, task_id: str) -> int:
        """How many of this class are ahead of it; raises KeyError when absent."""
        index, total = self._place[task_id], 0
        while index > 0:
            total += self._count[index]
            index -= index & -index
        return total

    def ahead(self, task_id: str) -> Work:
        """The work of this class ahead of it; raises KeyError when absent."""
        return self._sum(self._place[task_id])

    def all(self) -> Work:
        """The work of everything in line."""
        return self._sum(len(self._entries))

    def accepted_by(self, moment: float) -> Work:
        """The work of what was accepted up to a moment."""
        return self._sum(bisect_right(self._entries, moment, key=lambda e: e.accepted_at))

    def _sum(self, index: int) -> Work:
        count = prompt = guided = unguided = 0
        while index > 0:
            count += self._count[index]
            prompt += self._prompt[index]
            guided += self._guided[index]
            unguided += self._unguided[index]
            index -= index & -index
        return Work(count, prompt, guided, unguided)

    def _append(self, entry: Entry) -> None:
        self._place[entry.task_id] = len(self._entries)
        self._entries.append(entry)
        self._add(len(self._entries), entry.work, 1)

    def _refill(self, place: int, entry: Entry) -> None:
        self._place[entry.task_id] = place
        self._entries[place] = entry
        self._first = min(self._first, place)
        self._add(place + 1, entry.work, 1)

    def _add(self, index: int, work: Work, sign: int) -> None:
        prompt, guided, unguided = sign * work.prompt, sign * work.guided, sign * work.unguided
        while index < len(self._count):
            self._count[index] += sign
            self._prompt[index] += prompt
            self._guided[index] += guided
            self._unguided[index] += unguided
            index += index & -index

    def _waiting(self) -> list[Entry]:
        return [
            entry
            for place, entry in enumerate(self._entries)
            if self._place.get(entry.task_id) == place
        ]

    def _rebuild(self, entries: list[Entry]) -> None:
        self._entries: list[Entry] = []
        self._place: dict[str, int] = {}
        self._first = 0
        size = max(_SMALLEST_TREE, 2 * len(entries)) + 1
        self._count, self._prompt, self._guided, self._unguided = ([0] * size for _ in range(4))
        for entry in entries:
            self._append(entry)


class TaskQueue:
    """The line of one pool; its owner bounds it.

    Args:
        batch_max_wait_s: how long a batch task lets interactive ones go first.
    """

    def __init__(self, batch_max_wait_s: float) -> None:
        self.batch_max_wait_s = batch_max_wait_s
        self._interactive = _Line()
        self._batch = _Line()
        self._lines = {Priority.INTERACTIVE: self._interactive, Priority.BATCH: self._batch}

    def __len__(self) -> int:
        return len(self._interactive) + len(self._batch)

    def depth(self, priority: Priority) -> int:
        """Tasks of one class in line."""
        return len(self._lines[priority])

    def push(self, entry: Entry, priority: Priority) -> None:
        """Put a task in line, in order of its sequence number within its class."""
        self._lines[priority].push(entry)

    def remove(self, task_id: str, priority: Priority) -> None:
        """Take a task out of line; raises KeyError when it is not in it."""
        self._lines[priority].remove(task_id)

    def head(self, now: float) -> str | None:
        """The task that starts next, or None."""
        batch = self._batch.head()
        if batch is not None and batch.accepted_at <= now - self.batch_max_wait_s:
            return batch.task_id
        first = self._interactive.head() or batch
        return None if first is None else first.task_id

    def oldest_batch(self) -> str | None:
        """The batch task that has waited longest, or None."""
        oldest = self._batch.head()
        return None if oldest is None else oldest.task_id

    def position(self, task_id: str, priority: Priority, now: float) -> int:
        """Tasks that start before it; 0 = next.  Raises KeyError when absent."""
        rank = self._lines[priority].rank(task_id)
        starved = self._starved(now).tasks
        if priority is Priority.INTERACTIVE:
            return rank + starved
        return rank if rank < starved else rank + len(self._interactive)

    def ahead(self, task_id: str, priority: Priority, now: float) -> Work:
        """The work that starts before it.  Raises KeyError when absent."""
        own = self._lines[priority].ahead(task_id)
        starved = self._starved(now)
        if priority is Priority.INTERACTIVE:
            return own + starved
        return own if own.tasks < starved.tasks else own + self._interactive.all()

    def ahead_of_new(self, priority: Priority, now: float) -> Work:
        """The work that would start before a task that joined now."""
        if priority is Priority.INTERACTIVE:
            return self._interactive.all() + self._starved(now)
        return self._interactive.all() + self._batch.all()

    def _starved(self, now: float) -> Work:
        """The batch tasks that have waited for the bound, and so go first."""
        return self._batch.accepted_by(now - self.batch_max_wait_s)
