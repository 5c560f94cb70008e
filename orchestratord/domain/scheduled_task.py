"""A task as the scheduler knows it, from its commit to its end."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.tasks import Priority, TaskState
from orchestratord.domain.budgets import NOTHING, Amounts
from orchestratord.domain.prediction import AttemptProgress, Work
from orchestratord.domain.queue import Entry
from orchestratord.domain.sessions import Session


@dataclass(slots=True)
class ScheduledTask:
    """Times are monotonic seconds; `predicted_start_at` and `predicted_ms` are the admission's."""

    task_id: str
    pool_id: str
    priority: Priority
    sequence: int
    accepted_at: float
    work: Work
    max_tokens: int
    deadline: float | None = None
    session: Session | None = None
    hold: Amounts = NOTHING
    predicted_start_at: float | None = None
    predicted_ms: float | None = None
    """From acceptance to the last token."""
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    replica_id: str | None = None
    progress: AttemptProgress | None = None

    @property
    def generates(self) -> bool:
        """Whether it decodes text, and leaves a cache of it in its slot."""
        return self.max_tokens > 0

    @property
    def entry(self) -> Entry:
        """Its place in line."""
        return Entry(self.task_id, self.sequence, self.accepted_at, self.work)

    @property
    def preferred_replica(self) -> str | None:
        """Where its session's cache is."""
        place = None if self.session is None else self.session.place
        return None if place is None else place.replica_id
