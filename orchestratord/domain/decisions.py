"""What the scheduler is asked, and what it answers: values, without behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from contracts.tasks import Priority
from orchestratord.domain.budgets import Amounts
from orchestratord.domain.placement import Candidate
from orchestratord.domain.prediction import Forecast, Work
from orchestratord.domain.sessions import Session

Candidates = Mapping[str, Sequence[Candidate]]


@dataclass(frozen=True, slots=True)
class QueueRules:
    """How many wait, what a full queue does, and how long batch work lets others go first."""

    capacity: int
    policy: Literal["reject", "drop-lru"] = "reject"
    batch_max_wait_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What a task asks for; `hold_tokens` is the most it can come to."""

    task_id: str
    pool_id: str
    priority: Priority
    prompt_tokens: int
    max_tokens: int
    expected_tokens: int | None = None
    hold_tokens: int = 0
    deadline_ms: int | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A task that passed every check; place, turn and budgets are held for it."""

    ask: Ask
    work: Work
    hold: Amounts
    session: Session | None
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class Start:
    """Run this task on this replica as this attempt.

    `prediction_error_ms` is how much later it starts than its admission said:
    None for a further attempt, or where nothing was predicted.
    """

    task_id: str
    replica_id: str
    attempt: int
    prediction_error_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Expire:
    """This task's deadline passed while it waited."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Strand:
    """This task waits for a pool that is no longer configured."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Drop:
    """This batch task made room for a newer one."""

    task_id: str
