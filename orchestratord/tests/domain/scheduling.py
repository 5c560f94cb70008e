"""Schedulers, tasks and replicas, with everything a test does not care for filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from hypothesis import HealthCheck, settings

from contracts.tasks import Priority
from orchestratord.domain.budgets import Limits, Price
from orchestratord.domain.decisions import Admitted, Ask, QueueRules
from orchestratord.domain.placement import Candidate
from orchestratord.domain.prediction import Work
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.sessions import SessionTable, SessionTerms
from orchestratord.domain.task_state import Move

POOLS = ("a", "b")
CLASSES = (Priority.INTERACTIVE, Priority.BATCH)
TERMS = SessionTerms(ttl_ms=600_000, max_turns=1_000, limits=Limits())
FREE_OF_CHARGE = Price(0)
NO_REPLICA: Sequence[Candidate] = ()
REPEATABLE = settings(deadline=None, derandomize=True)
"""The same examples every time, however slow the machine is."""


def machine_settings(examples: int, steps: int) -> settings:
    """The same runs of a state machine every time, however slow the machine is."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


def candidate(
    pool_id: str,
    number: int,
    slots: int = 1,
    free: int = 0,
    *,
    ready: bool = True,
    ready_in_ms: float | None = None,
) -> Candidate:
    """A replica that serves, unless it has no slots or is said not to."""
    serves = ready and slots > 0
    return Candidate(f"{pool_id}/{number}", serves, slots, free, 0.0 if serves else ready_in_ms)


ONE = {"a": [candidate("a", 0)]}


def scheduler_of(
    *tasks: ScheduledTask,
    capacity: int = 256,
    policy: Literal["reject", "drop-lru"] = "reject",
    batch_max_wait_s: float = 300.0,
    terms: SessionTerms = TERMS,
    price: Price = FREE_OF_CHARGE,
) -> Scheduler:
    """A scheduler of both pools, with these tasks in line."""
    rules = QueueRules(capacity, policy, batch_max_wait_s)
    scheduler = Scheduler(POOLS, rules, SessionTable(terms), price)
    for task in tasks:
        scheduler.enqueue(task)
    return scheduler


def task(
    number: int,
    priority: Priority = Priority.INTERACTIVE,
    deadline: float | None = None,
    accepted_at: float = 0.0,
) -> ScheduledTask:
    """A task of pool `a` that is in no session."""
    return ScheduledTask(
        task_id=f"t{number}",
        pool_id="a",
        priority=priority,
        sequence=number,
        accepted_at=accepted_at,
        work=Work.of(10, 10, None),
        max_tokens=10,
        deadline=deadline,
    )


def ask(task_id: str, priority: Priority = Priority.INTERACTIVE, **fields: Any) -> Ask:
    """What a task of pool `a` asks for: 100 tokens in, at most 100 out."""
    asked: dict[str, Any] = {"pool_id": "a", "prompt_tokens": 100, "max_tokens": 100} | fields
    asked.setdefault("hold_tokens", asked["prompt_tokens"] + asked["max_tokens"])
    return Ask(task_id, priority=priority, **asked)


def committed(admitted: Admitted, sequence: int, now: float) -> ScheduledTask:
    """The task that an admission becomes."""
    asked, forecast = admitted.ask, admitted.forecast
    deadline, start_ms = asked.deadline_ms, forecast.start_ms
    return ScheduledTask(
        task_id=asked.task_id,
        pool_id=asked.pool_id,
        priority=asked.priority,
        sequence=sequence,
        accepted_at=now,
        work=admitted.work,
        max_tokens=asked.max_tokens,
        deadline=None if deadline is None else now + deadline / 1000,
        session=admitted.session,
        hold=admitted.hold,
        predicted_start_at=None if start_ms is None else now + start_ms / 1000,
        predicted_ms=forecast.end_ms,
    )


def run_alone(
    scheduler: Scheduler, prompt_tokens: int, tokens_out: int, seconds: float, now: float = 0.0
) -> float:
    """Run one task in the idle pool `a`, half its time for each phase; returns when it ended."""
    name = f"alone-{now}"
    work = Work.of(prompt_tokens, tokens_out, None)
    alone = ScheduledTask(name, "a", Priority.INTERACTIVE, 0, now, work, tokens_out)
    scheduler.enqueue(alone)
    assert scheduler.decide(now, ONE)
    progress = alone.progress
    assert progress is not None
    progress.started_at, progress.prompt_tokens = now, prompt_tokens
    progress.first_token_at = now + seconds / 2
    progress.last_token_at = now + seconds
    progress.tokens_out = tokens_out
    scheduler.finish(name, Move.SUCCEED, tokens_out, now + seconds)
    return now + seconds
