"""What the end of a task means for its session and for the slot it ran in."""

from __future__ import annotations

from collections.abc import Set

from contracts.sessions import AmountBudget, Budgets, CostBudget
from orchestratord.domain.budgets import BILLION, NOTHING, Amounts, BudgetName, Ledger
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.sessions import CachePlace, Session
from orchestratord.runtime.attempt import Attempt
from orchestratord.runtime.outcome import Moment
from orchestratord.stores.sessions import Settlement
from orchestratord.stores.tasks import Outcome


def settlement_of(
    scheduler: Scheduler,
    task: ScheduledTask,
    attempt: Attempt | None,
    displaced: Set[str],
    outcome: Outcome,
    at: Moment,
) -> Settlement:
    """Settle a task in memory; returns what is to be written beside its end.

    `displaced` are the sessions that lost their cache when the task took its slot.
    """
    session, sessions = task.session, scheduler.sessions
    if attempt is not None and attempt.slot is not None and attempt.started:
        place = CachePlace(attempt.replica.replica_id, attempt.slot, attempt.replica.pid)
        keeper = session if task.generates else None
        before = sessions.used_slot(place, keeper, warmth(outcome))
        displaced = displaced if before is None else displaced | {before}
    if session is None:
        return Settlement(None, displaced=tuple(displaced))
    used = NOTHING if outcome.run_ms is None else _used(scheduler, outcome)
    charge = sessions.settle(session, task.task_id, task.hold, used, at.now)
    return Settlement(
        session.session_id,
        at.unix_ms + session.terms.ttl_ms,
        charge,
        session.place,
        session.kv_warmth,
        tuple(displaced),
    )


def warmth(outcome: Outcome) -> float:
    """The share of a prompt that the engine found in its cache, by its own figures."""
    if not outcome.tokens_in or outcome.cached_tokens is None:
        return 0.0
    return min(1.0, outcome.cached_tokens / outcome.tokens_in)


def budgets_of(session: Session | None) -> Budgets | None:
    """The budgets of a session as a client reads them."""
    if session is None:
        return None
    return budgets_view(session.ledger)


def budgets_view(ledger: Ledger) -> Budgets:
    """A ledger as a client reads it."""
    return Budgets(
        tokens=_amount(ledger, "tokens"),
        time_ms=_amount(ledger, "time_ms"),
        cost=CostBudget(
            limit=_unit(ledger.limits.cost),
            reserved=ledger.reserved.cost / BILLION,
            spent=ledger.spent.cost / BILLION,
            remaining=_unit(ledger.remaining("cost")),
        ),
    )


def _used(scheduler: Scheduler, outcome: Outcome) -> Amounts:
    tokens = (outcome.tokens_in or 0) + outcome.tokens_out
    return Amounts(tokens, outcome.run_ms or 0, scheduler.price.of(tokens))


def _amount(ledger: Ledger, name: BudgetName) -> AmountBudget:
    return AmountBudget(
        limit=getattr(ledger.limits, name),
        reserved=getattr(ledger.reserved, name),
        spent=getattr(ledger.spent, name),
        remaining=ledger.remaining(name),
    )


def _unit(billionths: int | None) -> float | None:
    return None if billionths is None else billionths / BILLION
