"""What a scheduler and its model must agree on, and which post is refused for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contracts.errors import Refusal
from orchestratord.domain.budgets import NAMES
from orchestratord.domain.decisions import Ask
from orchestratord.domain.placement import Candidate
from orchestratord.domain.prediction import Work
from orchestratord.domain.scheduler import TIME_STEP_MS, Scheduler
from orchestratord.errors import (
    BudgetExhausted,
    DeadlineUnmet,
    QueueFull,
    SessionTurnsExhausted,
)
from orchestratord.tests.domain.scheduler_model import PlainScheduler
from orchestratord.tests.domain.scheduling import CLASSES, POOLS


def refusal_of(
    real: Scheduler,
    model: PlainScheduler,
    ask: Ask,
    now: float,
    candidates: Sequence[Candidate],
) -> type[Refusal] | None:
    """The first check that fails: deadline, turns, budgets, capacity; None where none does."""
    pool = real._pools[ask.pool_id]
    forecast = pool.forecast_new(_work(real, ask, now), ask.priority, now, candidates)
    end_ms, ratios = forecast.end_ms, pool.rates.ratios
    if (
        ask.deadline_ms is not None
        and end_ms is not None
        and ratios.chance(end_ms, ask.deadline_ms) == 0
    ):
        return DeadlineUnmet
    refusal = None if ask.session_id is None else _session_refusal(real, ask, forecast.run_ms, now)
    if refusal is None and model.is_full(ask.pool_id, now):
        return QueueFull
    return refusal


def state_of(real: Scheduler, model: PlainScheduler, now: float) -> object:
    """Everything a post could change, as a value that can be compared."""
    lines = {pool_id: model.queued(pool_id, now) for pool_id in POOLS}
    places = {t.task_id: real.position(t.task_id, now) for line in lines.values() for t in line}
    counts = [(real.waiting(p), real.running(p), real._pools[p].reserved) for p in POOLS]
    return places, counts, repr(real.sessions._sessions), repr(real.sessions._warm)


def assert_lines_agree(real: Scheduler, model: PlainScheduler, now: float) -> None:
    """Positions are exact, and nothing is lost, doubled, or in a slot that is not there."""
    active = model.active()
    for pool_id in POOLS:
        line = model.queued(pool_id, now)
        assert [real.position(task.task_id, now) for task in line] == list(range(len(line)))
        depths = [real.depth(pool_id, priority) for priority in CLASSES]
        assert depths == [sum(t.priority is priority for t in line) for priority in CLASSES]
        assert real.waiting(pool_id) == len(line)
        assert real.running(pool_id) == sum(t.pool_id == pool_id for t in model.running())
        for number in range(3):
            assert real.active(f"{pool_id}/{number}") == active[f"{pool_id}/{number}"]


def assert_capacity_is_kept(model: PlainScheduler, now: float) -> None:
    """LO-ORC-020: only what came back may stand beyond it."""
    for pool_id in POOLS:
        admitted = [task for task in model.queued(pool_id, now) if not task.came_back]
        held = 0 if model.drops else model.on_the_way(pool_id)
        assert len(admitted) + held <= model.capacity


def assert_budgets_agree(real: Scheduler, model: PlainScheduler) -> None:
    """LO-ORC-123, LO-ORC-124: a session has reserved what its tasks hold."""
    for session in {*real.sessions._sessions.values(), *model.sessions()}:
        ledger = session.ledger
        assert ledger.reserved == model.reserved(session)
        for name in NAMES:
            limit = getattr(ledger.limits, name)
            assert limit is None or getattr(ledger.spent + ledger.reserved, name) <= limit


def assert_forecasts_agree(
    real: Scheduler,
    model: PlainScheduler,
    now: float,
    candidates: Mapping[str, Sequence[Candidate]],
) -> None:
    """LO-ORC-128."""
    for pool_id in POOLS:
        found = candidates.get(pool_id, ())
        known = real._pools[pool_id].rates.known and any(
            c.slots_total + model.active()[c.replica_id] and c.ready_in_ms is not None
            for c in found
        )
        for position, task in enumerate(model.queued(pool_id, now)):
            forecast = real.forecast(task.task_id, now, found)
            assert forecast is not None
            assert forecast.position == position
            assert (forecast.start_ms is not None) == known
            assert forecast.start_ms is None or forecast.start_ms >= 0


def _work(real: Scheduler, ask: Ask, now: float) -> Work:
    session = None if ask.session_id is None else real.sessions.find(ask.session_id, now)
    share = None if session is None else session.output_share.value
    expected = None if share is None else max(1, round(ask.max_tokens * share))
    return Work.of(ask.prompt_tokens, ask.max_tokens, expected)


def _session_refusal(
    real: Scheduler, ask: Ask, run_ms: float | None, now: float
) -> type[Refusal] | None:
    assert ask.session_id is not None
    table = real.sessions
    session, ledger = table.known(ask.session_id, now), table.ledger(ask.session_id, now)
    terms = table.defaults if session is None else session.terms
    turns = 0 if session is None or session.deleted else session.turns
    if turns >= terms.max_turns:
        return SessionTurnsExhausted
    left = ledger.remaining("time_ms")
    time_ms = TIME_STEP_MS if run_ms is None else max(1, round(run_ms))
    if left is not None:
        time_ms = min(time_ms, max(1, left))
    wanted = (ask.hold_tokens, time_ms, real.price.of(ask.hold_tokens))
    for name, hold in zip(NAMES, wanted, strict=True):
        limit: int | None = getattr(ledger.limits, name)
        used: int = getattr(ledger.spent + ledger.reserved, name)
        if limit is not None and (used >= limit or used + hold > limit):
            return BudgetExhausted
    return None
