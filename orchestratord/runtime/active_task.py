"""A task that has been accepted and has not ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from contracts.events import EndEvent, ErrorEvent
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.runtime.attempt import Attempt
from orchestratord.runtime.ending import Canceled
from orchestratord.runtime.event_log import EventLog
from orchestratord.runtime.outcome import Final
from orchestratord.stores.sessions import Settlement
from orchestratord.stores.tasks import NewTask, Outcome

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An end that is on disk."""

    ending: Final
    outcome: Outcome
    event: EndEvent | ErrorEvent
    """What readers are told; made before the commit, so that an end that is written can be told."""


@dataclass(slots=True, eq=False)
class ActiveTask:
    """What the dispatcher holds of it."""

    new: NewTask
    scheduled: ScheduledTask
    spec: PoolSpec
    log: EventLog
    attempt: Attempt | None = None
    resets: int = 0
    """Attempts that ended with the death of a replica, or of this daemon."""
    cancel_requested: Canceled | None = None
    next_metrics_at: float = 0.0
    """When its readers are due figures, monotonic seconds; NEVER while its end is written."""
    settlement: Settlement | None = None
    """What its session was charged, once it was; a second ending charges nothing."""
    displaced: set[str] = field(default_factory=set)
    """Sessions whose cache was in a slot that an attempt of it was given."""
    recorded: Recorded | None = None
    """How it ended, once that is on disk; nothing can end it otherwise any more."""
    ended: anyio.Event = field(default_factory=anyio.Event)

    @property
    def task_id(self) -> str:
        """Its id."""
        return self.new.task_id
