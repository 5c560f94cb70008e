"""The waiting line of one pool: two classes, first in first out within each.

Every interactive task goes before every batch task.  A task's position is the
number of tasks that would start before it, and it is asked for at every POST
and every status poll, so it must not cost a walk of the line: each class keeps
a Fenwick tree over arrival order (P. Fenwick, "A new data structure for
cumulative frequency tables", 1994), which makes a push, a removal anywhere and
a position O(log n).
"""

from __future__ import annotations

from contracts.tasks import Priority

_SMALLEST_TREE = 64


class _Line:
    """One class: tasks in order of `sequence`, with ranks."""

    def __init__(self) -> None:
        self._rebuild([])

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._place

    def push(self, task_id: str, sequence: int) -> None:
        """Add a task at the place its sequence number gives it.

        New tasks have the highest number and join the end.  One that lost its
        replica comes back with its old number, ahead of later arrivals; that
        is rare, and pays for a rebuild.
        """
        in_order = not self._arrivals or sequence > self._arrivals[-1][1]
        if in_order and len(self._arrivals) < len(self._tree) - 1:
            self._append(task_id, sequence)
        else:
            self._rebuild(sorted([*self._waiting(), (task_id, sequence)], key=lambda e: e[1]))

    def remove(self, task_id: str) -> None:
        """Take a task out; raises KeyError when it is not in line."""
        place = self._place.pop(task_id)
        self._add(place + 1, -1)

    def head(self) -> str | None:
        """The task that is next, or None."""
        while self._first < len(self._arrivals):
            task_id, _ = self._arrivals[self._first]
            if self._place.get(task_id) == self._first:
                return task_id
            self._first += 1
        return None

    def rank(self, task_id: str) -> int:
        """How many of this class are ahead of it; raises KeyError when absent."""
        index, total = self._place[task_id], 0
        while index > 0:
            total += self._tree[index]
            index -= index & -index
        return total

    def _append(self, task_id: str, sequence: int) -> None:
        self._place[task_id] = len(self._arrivals)
        self._arrivals.append((task_id, sequence))
        self._add(len(self._arrivals), 1)

    def _add(self, index: int, amount: int) -> None:
        while index < len(self._tree):
            self._tree[index] += amount
            index += index & -index

    def _waiting(self) -> list[tuple[str, int]]:
        return [
            entry
            for place, entry in enumerate(self._arrivals)
            if self._place.get(entry[0]) == place
        ]

    def _rebuild(self, entries: list[tuple[str, int]]) -> None:
        self._arrivals: list[tuple[str, int]] = []
        self._place: dict[str, int] = {}
        self._first = 0
        self._tree = [0] * (max(_SMALLEST_TREE, 2 * len(entries)) + 1)
        for task_id, sequence in entries:
            self._append(task_id, sequence)


class TaskQueue:
    """The line of one pool; its owner bounds it."""

    def __init__(self) -> None:
        self._lines = {priority: _Line() for priority in Priority}

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def depth(self, priority: Priority) -> int:
        """Tasks of one class in line."""
        return len(self._lines[priority])

    def push(self, task_id: str, priority: Priority, sequence: int) -> None:
        """Put a task in line, in order of its sequence number within its class."""
        self._lines[priority].push(task_id, sequence)

    def remove(self, task_id: str, priority: Priority) -> None:
        """Take a task out of line; raises KeyError when it is not in it."""
        self._lines[priority].remove(task_id)

    def head(self) -> str | None:
        """The task that starts next, or None."""
        return self._lines[Priority.INTERACTIVE].head() or self._lines[Priority.BATCH].head()

    def position(self, task_id: str, priority: Priority) -> int:
        """Tasks that start before it; 0 = next.  Raises KeyError when absent."""
        ahead = self._lines[Priority.INTERACTIVE] if priority is Priority.BATCH else ()
        return len(ahead) + self._lines[priority].rank(task_id)
