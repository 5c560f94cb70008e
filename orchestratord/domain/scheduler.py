"""Who runs next, and where: the one owner of the queues.

Every method is synchronous and changes state at once, so that between two
awaits of the caller the scheduler is always whole.  A task is admitted in two
steps, because a 202 promises that it is on disk: `reserve` holds a place under
the capacity while the commit is on its way, `release` gives it back, and
`enqueue` puts the committed task in line.  Until then no decision can see it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contracts.tasks import Priority, TaskState
from orchestratord.domain.placement import Candidate, choose
from orchestratord.domain.queue import TaskQueue
from orchestratord.domain.task_state import Move, after
from orchestratord.errors import QueueFull

_STALE_DEADLINES = 64


@dataclass(slots=True)
class ScheduledTask:
    """A task between its commit and its end; `deadline` is monotonic seconds."""

    task_id: str
    pool_id: str
    priority: Priority
    sequence: int
    deadline: float | None = None
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    replica_id: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Run this task on this replica as this attempt."""

    task_id: str
    replica_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Expire:
    """This task's deadline passed while it waited."""

    task_id: str


class Scheduler:
    """The queues, the running set and the slots in use."""

    def __init__(self, pool_ids: Iterable[str], capacity: int) -> None:
        self._capacity = capacity
        self._queues = {pool_id: TaskQueue() for pool_id in pool_ids}
        self._reserved: Counter[str] = Counter()
        self._tasks: dict[str, ScheduledTask] = {}
        self._active: Counter[str] = Counter()
        self._deadlines: list[tuple[float, str]] = []

    def reserve(self, pool_id: str) -> None:
        """Hold one place in a queue; raises `QueueFull`."""
        if len(self._queues[pool_id]) + self._reserved[pool_id] >= self._capacity:
            raise QueueFull(pool_id, self._capacity)
        self._reserved[pool_id] += 1

    def release(self, pool_id: str) -> None:
        """Give back a place that was held."""
        self._reserved[pool_id] -= 1

    def enqueue(self, task: ScheduledTask) -> None:
        """Put a committed task in line; from now on a decision may pick it."""
        self._tasks[task.task_id] = task
        self._join_queue(task)

    def decide(
        self, now: float, candidates: Mapping[str, Iterable[Candidate]]
    ) -> list[Start | Expire]:
        """Everything that should happen now, already applied to this state.

        `candidates` are the replicas of each pool; their `active` count is
        this scheduler's own and is filled in here.  Expired tasks come first.
        """
        decisions: list[Start | Expire] = list(self._expire(now))
        for pool_id, queue in self._queues.items():
            while (task_id := queue.head()) is not None:
                chosen = choose(self._with_active(candidates.get(pool_id, ())))
                if chosen is None:
                    break
                decisions.append(self._start(self._tasks[task_id], chosen.replica_id))
        return decisions

    def cancel(self, task_id: str) -> bool:
        """Take a queued task out for good; False when it is running or unknown."""
        task = self._tasks.get(task_id)
        if task is None or task.state is not TaskState.QUEUED:
            return False
        self._leave_queue(task, Move.CANCEL)
        return True

    def finish(self, task_id: str, move: Move) -> None:
        """A running task has ended; its slot is free."""
        task = self._tasks.pop(task_id)
        task.state = after(task.state, move)
        self._free(task)

    def rerun(self, task_id: str) -> None:
        """A running task goes back in line, ahead of all that came after it."""
        task = self._tasks[task_id]
        task.state = after(task.state, Move.RERUN)
        self._free(task)
        self._join_queue(task)

    def position(self, task_id: str) -> int | None:
        """Tasks ahead of it, 0 = next; None once it has left the queue."""
        task = self._tasks.get(task_id)
        if task is None or task.state is not TaskState.QUEUED:
            return None
        return self._queues[task.pool_id].position(task_id, task.priority)

    def depth(self, pool_id: str, priority: Priority) -> int:
        """Tasks of one class waiting in a pool's queue."""
        return self._queues[pool_id].depth(priority)

    def running(self, pool_id: str) -> int:
        """Tasks of a pool that hold a slot."""
        return sum(
            task.pool_id == pool_id and task.state is TaskState.RUNNING
            for task in self._tasks.values()
        )

    def active(self, replica_id: str) -> int:
        """Slots of a replica that hold a task."""
        return self._active[replica_id]

    def _with_active(self, replicas: Iterable[Candidate]) -> Iterable[Candidate]:
        for c in replicas:
            yield Candidate(
                c.replica_id, c.ready, c.slots_total, self.active(c.replica_id), c.free_vram_bytes
            )

    def _start(self, task: ScheduledTask, replica_id: str) -> Start:
        self._queues[task.pool_id].remove(task.task_id, task.priority)
        task.state = after(task.state, Move.START)
        task.attempt += 1
        task.replica_id = replica_id
        self._active[replica_id] += 1
        return Start(task.task_id, replica_id, task.attempt)

    def _expire(self, now: float) -> Iterable[Expire]:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, task_id = heapq.heappop(self._deadlines)
            task = self._tasks.get(task_id)
            if task is not None and task.state is TaskState.QUEUED:
                self._leave_queue(task, Move.FAIL)
                yield Expire(task_id)

    def _join_queue(self, task: ScheduledTask) -> None:
        """Put it in line, and on the heap of deadlines.

        Entries of tasks that have left stay on the heap until they outnumber
        the tasks there are; then it is made anew.
        """
        self._queues[task.pool_id].push(task.task_id, task.priority, task.sequence)
        if task.deadline is None:
            return
        heapq.heappush(self._deadlines, (task.deadline, task.task_id))
        if len(self._deadlines) > 2 * len(self._tasks) + _STALE_DEADLINES:
            self._deadlines = sorted(
                (task.deadline, task.task_id)
                for task in self._tasks.values()
                if task.deadline is not None
            )

    def _leave_queue(self, task: ScheduledTask, move: Move) -> None:
        task.state = after(task.state, move)
        self._queues[task.pool_id].remove(task.task_id, task.priority)
        del self._tasks[task.task_id]

    def _free(self, task: ScheduledTask) -> None:
        assert task.replica_id is not None
        self._active[task.replica_id] -= 1
        task.replica_id = None
