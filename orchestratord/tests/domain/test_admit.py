"""What is checked before a task may wait, in which order, and what a refusal leaves behind."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from contracts.errors import Refusal
from contracts.tasks import Priority
from orchestratord.domain.budgets import NOTHING, Amounts, Limits, Price
from orchestratord.domain.scheduler import TIME_STEP_MS, Scheduler
from orchestratord.domain.sessions import SessionTerms
from orchestratord.domain.task_state import Move
from orchestratord.errors import (
    QUEUE_RETRY_MS,
    BudgetExhausted,
    DeadlineUnmet,
    QueueFull,
    SessionTurnsExhausted,
)
from orchestratord.tests.domain.scheduling import (
    NO_REPLICA,
    ONE,
    ask,
    candidate,
    committed,
    run_alone,
    scheduler_of,
)

ORDER: tuple[type[Refusal], ...] = (
    DeadlineUnmet,
    SessionTurnsExhausted,
    BudgetExhausted,
    QueueFull,
)
SUBSETS = [set(found) for size in range(1, 5) for found in combinations(ORDER, size)]
TERMS = SessionTerms(ttl_ms=60_000, max_turns=3, limits=Limits(tokens=1_000))


def admit_and_commit(scheduler: Scheduler, number: int, now: float = 0.0, **fields: Any) -> None:
    admitted = scheduler.admit(ask(f"t{number}", **fields), now, 1, ONE["a"])
    scheduler.enqueue(committed(admitted, number, now), admitted)


@pytest.mark.parametrize("failing", SUBSETS, ids=lambda s: "+".join(e.__name__ for e in s))
def test_a_task_that_fails_several_checks_is_told_the_first(failing: set[type[Refusal]]) -> None:
    """LO-ORC-005."""
    scheduler = scheduler_of(capacity=1, terms=TERMS)
    now = run_alone(scheduler, prompt_tokens=100, tokens_out=100, seconds=2)
    turns = 1 if SessionTurnsExhausted in failing else 3
    tokens = 250 if BudgetExhausted in failing else 1_000
    terms = SessionTerms(60_000, turns, Limits(tokens=tokens))
    scheduler.sessions.open("s", terms, now, 1)
    scheduler.sessions.admit("s", "before", Amounts(tokens=200), now, 1)
    if QueueFull in failing:
        admit_and_commit(scheduler, 1, now)
    deadline_ms = 1 if DeadlineUnmet in failing else None
    first = next(refusal for refusal in ORDER if refusal in failing)
    with pytest.raises(first):
        scheduler.admit(ask("t", session_id="s", deadline_ms=deadline_ms), now, 1, ONE["a"])


@pytest.mark.parametrize("refusal", ORDER)
def test_a_refusal_holds_nothing(refusal: type[Refusal]) -> None:
    """LO-ORC-006: nor does it begin a session."""
    scheduler = scheduler_of(capacity=1, terms=TERMS)
    now = run_alone(scheduler, prompt_tokens=100, tokens_out=100, seconds=2)
    known = refusal in (SessionTurnsExhausted, BudgetExhausted)
    if known:
        turns = 1 if refusal is SessionTurnsExhausted else 9
        scheduler.sessions.open("s", SessionTerms(60_000, turns, Limits(tokens=250)), now, 1)
        scheduler.sessions.admit("s", "before", Amounts(tokens=200), now, 1)
    if refusal is QueueFull:
        admit_and_commit(scheduler, 1, now)
    before = scheduler.waiting("a"), repr(scheduler.sessions._sessions)
    deadline_ms = 1 if refusal is DeadlineUnmet else None
    asked = ask("t", session_id="s", deadline_ms=deadline_ms)
    for _ in range(3):
        with pytest.raises(refusal):
            scheduler.admit(asked, now + 1, 1, ONE["a"])
    assert (scheduler.waiting("a"), repr(scheduler.sessions._sessions)) == before
    assert (scheduler.sessions.known("s", now) is not None) == known
    assert scheduler._pools["a"].reserved == 0


def test_a_task_that_could_not_be_committed_gives_everything_back() -> None:
    """LO-ORC-124."""
    scheduler = scheduler_of(capacity=2, terms=TERMS, price=Price.per_thousand(3.7))
    admit_and_commit(scheduler, 1, session_id="s")
    session = scheduler.sessions.find("s", 0)
    assert session is not None
    before = session.ledger.reserved
    for number in range(2, 12):
        admitted = scheduler.admit(ask(f"t{number}", session_id="s"), 0, 1, NO_REPLICA)
        assert (session.turns, session.ledger.reserved) == (2, before + admitted.hold)
        scheduler.withdraw(admitted)
        assert (session.turns, session.tasks) == (1, {"t1"})
        assert (session.ledger.reserved, session.ledger.spent) == (before, NOTHING)
    assert scheduler.backoff_ms("a", 0, NO_REPLICA) == 0


# -- deadlines -------------------------------------------------------------


def test_without_a_rate_no_deadline_is_refused() -> None:
    """LO-ORC-122."""
    scheduler = scheduler_of()
    assert scheduler.admit(ask("t", deadline_ms=1), 0, 1, ONE["a"]).forecast.end_ms is None


@pytest.mark.parametrize(("deadline_ms", "refused"), [(499, True), (500, False), (2_000, False)])
def test_a_deadline_is_refused_where_even_the_widest_error_would_not_meet_it(
    deadline_ms: int, refused: bool
) -> None:
    """LO-ORC-122: the task would take 2 s, and a quarter of that was never ruled out."""
    scheduler = scheduler_of()
    now = run_alone(scheduler, prompt_tokens=100, tokens_out=101, seconds=2)
    asked = ask("t", prompt_tokens=100, max_tokens=100, deadline_ms=deadline_ms)
    if refused:
        with pytest.raises(DeadlineUnmet) as told:
            scheduler.admit(asked, now, 1, ONE["a"])
        assert told.value.details == {"predicted_ms": 2_000, "deadline_ms": deadline_ms}
    else:
        assert scheduler.admit(asked, now, 1, ONE["a"]).forecast.end_ms == pytest.approx(2_000)


@pytest.mark.parametrize(("deadline_ms", "refused"), [(1_599, True), (1_600, False)])
def test_what_was_seen_of_errors_decides_which_deadline_is_hopeless(
    deadline_ms: int, refused: bool
) -> None:
    """LO-ORC-122: of many tasks none took less than 0.8 of what was predicted."""
    scheduler = scheduler_of()
    now = run_alone(scheduler, prompt_tokens=100, tokens_out=101, seconds=2)
    ratios = scheduler._pools["a"].rates.ratios
    for number in range(64):
        ratios.add(0.8 + number / 64)
    asked = ask("t", prompt_tokens=100, max_tokens=100, deadline_ms=deadline_ms)
    if refused:
        with pytest.raises(DeadlineUnmet):
            scheduler.admit(asked, now, 1, ONE["a"])
    else:
        scheduler.admit(asked, now, 1, ONE["a"])


def test_a_deadline_counts_the_line_before_the_task_in_its_class() -> None:
    """LO-ORC-122: a batch task waits for all, an interactive one not for batch."""
    scheduler = scheduler_of()
    now = run_alone(scheduler, prompt_tokens=100, tokens_out=101, seconds=2)
    for number in range(20):
        admit_and_commit(scheduler, number, now, priority=Priority.BATCH)
    with pytest.raises(DeadlineUnmet):
        scheduler.admit(ask("t", Priority.BATCH, deadline_ms=3_000), now, 1, ONE["a"])
    scheduler.admit(ask("t", deadline_ms=3_000), now, 1, ONE["a"])


# -- budgets ---------------------------------------------------------------


def test_of_a_hundred_posts_a_budget_for_ten_admits_ten_and_refunds_to_the_unit() -> None:
    """LO-ORC-123, LO-ORC-124."""
    price = Price.per_thousand(0.1)
    cost = 10 * price.of(200)
    terms = SessionTerms(60_000, 1_000, Limits(tokens=2_000, cost=cost))
    scheduler = scheduler_of(terms=terms, price=price)
    admitted = []
    for number in range(100):
        try:
            found = scheduler.admit(ask(f"t{number}", session_id="s"), 0, 1, NO_REPLICA)
        except BudgetExhausted:
            continue
        scheduler.enqueue(committed(found, number, 0), found)
        admitted.append(found)
    assert len(admitted) == 10
    session = admitted[0].session
    assert session is not None
    assert (session.ledger.remaining("tokens"), session.ledger.remaining("cost")) == (0, 0)
    for found in admitted:
        assert scheduler.cancel(found.ask.task_id)
        scheduler.sessions.settle(session, found.ask.task_id, found.hold, NOTHING, 1)
    assert (session.ledger.reserved, session.ledger.spent) == (NOTHING, NOTHING)


@pytest.mark.parametrize(("time_ms", "held"), [(None, TIME_STEP_MS), (5_000, 1_000), (300, 300)])
def test_of_a_task_nothing_is_known_about_a_step_of_time_is_held(
    time_ms: int | None, held: int
) -> None:
    terms = SessionTerms(60_000, 9, Limits(time_ms=time_ms))
    scheduler = scheduler_of(terms=terms)
    assert scheduler.admit(ask("t", session_id="s"), 0, 1, NO_REPLICA).hold.time_ms == held


def test_what_a_task_is_expected_to_take_is_held_of_a_time_budget() -> None:
    terms = SessionTerms(60_000, 9, Limits(time_ms=3_000))
    scheduler = scheduler_of(terms=terms)
    now = run_alone(scheduler, prompt_tokens=100, tokens_out=101, seconds=2)
    admitted = scheduler.admit(ask("t1", session_id="s"), now, 1, ONE["a"])
    assert admitted.hold == Amounts(tokens=200, time_ms=2_000)
    rest = scheduler.admit(ask("t2", session_id="s"), now, 1, ONE["a"])
    assert rest.hold.time_ms == 1_000, "a prediction refuses nobody: time is extended, or cut"
    with pytest.raises(BudgetExhausted) as refused:
        scheduler.admit(ask("t3", session_id="s"), now, 1, ONE["a"])
    assert refused.value.details == {"budget": "time_ms", "wanted": 1, "remaining": 0}


# -- capacity --------------------------------------------------------------


def test_a_full_queue_says_when_it_will_have_room() -> None:
    """LO-ORC-021: when the first of the slots is expected to be free."""
    scheduler = scheduler_of(capacity=1)
    now = run_alone(scheduler, prompt_tokens=100, tokens_out=101, seconds=2)
    slots = [candidate("a", 0, slots=2)]
    for number, start in ((1, now), (2, now + 0.5)):
        admit_and_commit(scheduler, number, start)
        scheduler.decide(start, {"a": slots})
    admit_and_commit(scheduler, 3, now + 0.5)
    with pytest.raises(QueueFull) as refused:
        scheduler.admit(ask("t"), now + 0.75, 1, slots)
    assert refused.value.retry_after_ms == pytest.approx(1_250, abs=1)
    assert refused.value.policy_label == "reject"
    assert scheduler.backoff_ms("a", now + 0.75, slots) == refused.value.retry_after_ms


def test_where_nobody_knows_when_there_is_room_a_second_is_told() -> None:
    scheduler = scheduler_of(capacity=1)
    admit_and_commit(scheduler, 1)
    with pytest.raises(QueueFull) as refused:
        scheduler.admit(ask("t"), 0, 1, ONE["a"])
    assert refused.value.retry_after_ms == QUEUE_RETRY_MS
    assert scheduler.backoff_ms("a", 0, ONE["a"]) is None


def test_the_time_to_come_back_is_never_nothing() -> None:
    scheduler = scheduler_of(capacity=1)
    now = run_alone(scheduler, prompt_tokens=100, tokens_out=101, seconds=2)
    admit_and_commit(scheduler, 1, now)
    with pytest.raises(QueueFull) as refused:
        scheduler.admit(ask("t"), now, 1, ONE["a"])
    assert refused.value.retry_after_ms == 1


def test_a_queue_with_room_asks_nobody_to_wait() -> None:
    scheduler = scheduler_of(capacity=2)
    admit_and_commit(scheduler, 1)
    assert scheduler.backoff_ms("a", 0, ONE["a"]) == 0
    scheduler.decide(0, ONE)
    scheduler.finish("t1", Move.SUCCEED, 10, 1)
    assert scheduler.backoff_ms("a", 1, ONE["a"]) == 0
