"""Beginning and end of a session, its turns and its budgets, by name."""

from __future__ import annotations

import pytest

from orchestratord.domain import sessions
from orchestratord.domain.budgets import NOTHING, Amounts, Ledger, Limits
from orchestratord.domain.sessions import CachePlace, Session, SessionTable, SessionTerms
from orchestratord.errors import BudgetExhausted, SessionsFull, SessionTurnsExhausted

TERMS = SessionTerms(ttl_ms=10_000, max_turns=2, limits=Limits(tokens=100))
TEN = Amounts(tokens=10)


def table_with(session_id: str = "s", terms: SessionTerms = TERMS) -> tuple[SessionTable, Session]:
    """A table with one session, begun at 100 s."""
    table = SessionTable(TERMS)
    session = table.open(session_id, terms, 100.0, 1)
    session.stored = True
    return table, session


def spend(table: SessionTable, session_id: str, tokens: int, now: float) -> Session:
    """One task of a session, from its admission to its end."""
    session = table.admit(session_id, "spends", Amounts(tokens=tokens), now, 1)
    session.stored = True
    table.settle(session, "spends", Amounts(tokens=tokens), Amounts(tokens=tokens), now)
    return session


@pytest.mark.parametrize(("now", "left"), [(109.998, 2), (109.999, 1), (110.0, 0), (999.0, 0)])
def test_a_session_ends_its_ttl_after_its_last_task(now: float, left: int) -> None:
    """LO-ORC-125."""
    table, session = table_with()
    assert session.expires_in_ms(now) == left
    assert (table.find("s", now) is None) == (left == 0)
    assert table.expire(now) == ([] if left else ["s"])


def test_a_session_does_not_end_while_a_task_of_it_waits_or_runs() -> None:
    """LO-ORC-125."""
    table, session = table_with()
    table.admit("s", "t", TEN, 101.0, 1)
    assert table.expire(10_000.0) == []
    assert session.expires_in_ms(10_000.0) == 10_000
    table.settle(session, "t", TEN, TEN, 20_000.0)
    assert table.find("s", 20_009.9) is session
    assert table.find("s", 20_010.0) is None


def test_what_has_ended_begins_anew_with_nothing_spent() -> None:
    """LO-ORC-125: whether or not somebody has cleared it away."""
    table, _ = table_with()
    old = spend(table, "s", 90, 101.0)
    new = table.admit("s", "t", TEN, 111.0, 2)
    assert new is not old
    assert (new.turns, new.created_ms, new.terms) == (1, 2, TERMS)
    assert (new.ledger.spent, new.ledger.reserved) == (NOTHING, TEN)


def test_a_deleted_session_keeps_its_spend_until_its_ttl() -> None:
    """LO-ORC-126."""
    table, session = table_with()
    spend(table, "s", 95, 101.0)
    table.delete(session)
    assert table.find("s", 102.0) is None
    assert list(table.live(102.0)) == []
    with pytest.raises(BudgetExhausted) as refused:
        table.check("s", TEN, 110.999)
    assert refused.value.details == {"budget": "tokens", "wanted": 10, "remaining": 5}
    table.check("s", TEN, 111.0)


def test_a_deleted_session_comes_back_with_new_turns_and_the_old_spend() -> None:
    """LO-ORC-126."""
    table, session = table_with()
    spend(table, "s", 30, 101.0)
    spend(table, "s", 30, 101.0)
    with pytest.raises(SessionTurnsExhausted):
        table.check("s", TEN, 102.0)
    table.delete(session)
    table.check("s", TEN, 102.0)
    assert table.admit("s", "t", TEN, 102.0, 3) is session
    assert table.find("s", 102.0) is session
    assert (session.turns, session.ledger.spent) == (1, Amounts(tokens=60))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_session_runs_as_many_tasks_as_it_may(turns: int) -> None:
    table, _ = table_with(terms=SessionTerms(10_000, turns, Limits()))
    for number in range(turns):
        table.check("s", TEN, 101.0)
        table.admit("s", f"t{number}", TEN, 101.0, 1)
    with pytest.raises(SessionTurnsExhausted):
        table.check("s", TEN, 101.0)


def test_new_terms_keep_what_was_spent() -> None:
    table, session = table_with()
    spend(table, "s", 90, 101.0)
    table.open("s", SessionTerms(10_000, 9, Limits(tokens=200)), 102.0, 5)
    assert session.ledger.remaining("tokens") == 110
    assert (session.turns, session.terms.max_turns) == (1, 9)


def test_a_check_changes_nothing() -> None:
    table = SessionTable(TERMS)
    table.check("s", TEN, 100.0)
    with pytest.raises(BudgetExhausted):
        table.check("s", Amounts(tokens=101), 100.0)
    assert table.known("s", 100.0) is None
    assert list(table.live(100.0)) == []


def test_a_session_that_was_never_stored_goes_with_its_only_task() -> None:
    table = SessionTable(TERMS)
    first = table.admit("s", "t1", TEN, 100.0, 1)
    table.admit("s", "t2", TEN, 100.0, 1)
    table.withdraw(first, "t1", TEN)
    assert table.known("s", 100.0) is first
    assert (first.turns, first.ledger.reserved) == (1, TEN)
    table.withdraw(first, "t2", TEN)
    assert table.known("s", 100.0) is None


def test_a_session_that_was_opened_stays_when_a_task_of_it_is_withdrawn() -> None:
    """Its row may still be on its way to the disk."""
    table = SessionTable(TERMS)
    session = table.open("s", TERMS, 100.0, 1)
    table.admit("s", "t", TEN, 100.0, 1)
    table.withdraw(session, "t", TEN)
    assert table.known("s", 100.0) is session


def test_a_withdrawn_task_takes_no_turn_of_a_later_life() -> None:
    table, session = table_with()
    table.admit("s", "before", TEN, 101.0, 1)
    table.delete(session)
    table.admit("s", "after", TEN, 102.0, 1)
    table.withdraw(session, "before", TEN)
    assert (session.turns, session.tasks) == (1, {"after"})
    table.withdraw(session, "after", TEN)
    assert session.turns == 0


def test_a_withdrawn_task_does_not_bring_a_deleted_session_back() -> None:
    table, session = table_with()
    table.delete(session)
    table.admit("s", "t", TEN, 101.0, 1)
    table.withdraw(session, "t", TEN)
    assert table.find("s", 101.0) is None


def test_no_more_sessions_than_may_be_are_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 2)
    table, _ = table_with("s1")
    table.check("s2", TEN, 100.0)
    table.open("s2", TERMS, 100.0, 1)
    with pytest.raises(SessionsFull):
        table.check("s3", TEN, 100.0)
    with pytest.raises(SessionsFull):
        table.open("s3", TERMS, 100.0, 1)
    table.check("s1", TEN, 100.0)
    table.open("s1", TERMS, 100.0, 1)
    assert table.expire(110.0) == ["s1", "s2"]
    table.check("s3", TEN, 110.0)


def test_a_session_of_an_earlier_life_goes_on_where_it_was() -> None:
    place = CachePlace("chat/0", 1, 7)
    session = Session("s", 1, TERMS, 95.0, Ledger(TERMS.limits, TEN, TEN), 1, place=place)
    session.tasks.add("t")
    table = SessionTable(TERMS)
    table.restore(session)
    assert table.of_task("s") is table.find("s", 100.0) is session
    assert table.used_slot(CachePlace("chat/0", 1, 7), None, 0.0) == "s"
    table.settle(session, "t", TEN, Amounts(tokens=7), 101.0)
    assert (session.ledger.reserved, session.ledger.spent) == (NOTHING, Amounts(tokens=17))
