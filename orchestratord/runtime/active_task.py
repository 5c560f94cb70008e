"""A task that has been accepted and has not ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from orchestratord.domain.admission import PoolSpec
from orchestratord.domain.scheduler import ScheduledTask
from orchestratord.runtime.attempt import Attempt
from orchestratord.runtime.event_log import EventLog
from orchestratord.stores.tasks import NewTask


@dataclass(slots=True, eq=False)
class ActiveTask:
    """What the dispatcher holds of it; `accepted_at` in monotonic seconds."""

    new: NewTask
    scheduled: ScheduledTask
    spec: PoolSpec
    log: EventLog
    accepted_at: float
    attempt: Attempt | None = None
    resets: int = 0
    cancel_requested: bool = False
    ended: anyio.Event = field(default_factory=anyio.Event)
