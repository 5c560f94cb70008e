"""What a scheduler should hold, as a dict of tasks that is searched for every question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from contracts.tasks import Priority, TaskState
from orchestratord.domain.budgets import NOTHING, Amounts
from orchestratord.domain.decisions import Admitted
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.domain.sessions import Session
from orchestratord.tests.domain.scheduling import CLASSES


@dataclass(slots=True)
class PlainTask:
    """A committed task; `came_back` is one that no admission let into the line."""

    task_id: str
    pool_id: str
    priority: Priority
    sequence: int
    accepted_at: float
    deadline: float | None
    session: Session | None
    hold: Amounts
    came_back: bool
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    replica_id: str | None = None

    @classmethod
    def of(cls, task: ScheduledTask, came_back: bool) -> PlainTask:
        return cls(
            task.task_id,
            task.pool_id,
            task.priority,
            task.sequence,
            task.accepted_at,
            task.deadline,
            task.session,
            task.hold,
            came_back,
        )


@dataclass(slots=True)
class PlainScheduler:
    """Tasks between their commit and their end, and admissions whose commit is on its way."""

    capacity: int
    drops: bool
    batch_max_wait_s: float
    tasks: dict[str, PlainTask] = field(default_factory=dict)
    held: list[Admitted] = field(default_factory=list)

    def queued(self, pool_id: str, now: float) -> list[PlainTask]:
        """A line, the next task first: starved batch, interactive, batch."""

        def rank(task: PlainTask) -> tuple[int, int]:
            starved = task.accepted_at <= now - self.batch_max_wait_s
            is_first = task.priority is Priority.BATCH and starved
            return -1 if is_first else CLASSES.index(task.priority), task.sequence

        waiting = (t for t in self.tasks.values() if t.state is TaskState.QUEUED)
        return sorted((t for t in waiting if t.pool_id == pool_id), key=rank)

    def running(self) -> list[PlainTask]:
        return [task for task in self.tasks.values() if task.state is TaskState.RUNNING]

    def active(self) -> Counter[str]:
        return Counter(task.replica_id for task in self.running() if task.replica_id)

    def on_the_way(self, pool_id: str) -> int:
        return sum(admitted.ask.pool_id == pool_id for admitted in self.held)

    def expired(self, now: float) -> set[str]:
        return {
            task.task_id
            for task in self.tasks.values()
            if task.state is TaskState.QUEUED and task.deadline is not None and task.deadline <= now
        }

    def dropped(self, pool_id: str, now: float) -> list[str]:
        """What must leave a line that is too long, oldest first."""
        line = self.queued(pool_id, now)
        batch = sorted((t.sequence, t.task_id) for t in line if t.priority is Priority.BATCH)
        surplus = max(0, len(line) - self.capacity) if self.drops else 0
        return [task_id for _, task_id in batch[:surplus]]

    def is_full(self, pool_id: str, now: float) -> bool:
        line = self.queued(pool_id, now)
        stays = [t for t in line if not (self.drops and t.priority is Priority.BATCH)]
        return len(stays) + self.on_the_way(pool_id) >= self.capacity

    def reserved(self, session: Session) -> Amounts:
        """What a session's tasks hold, those on their way included."""
        holds = [task.hold for task in self.tasks.values() if task.session is session]
        holds += [admitted.hold for admitted in self.held if admitted.session is session]
        return sum(holds, NOTHING)

    def sessions(self) -> Iterable[Session]:
        """Every session a task holds something of."""
        found = [task.session for task in self.tasks.values()]
        found += [admitted.session for admitted in self.held]
        return [session for session in found if session is not None]
