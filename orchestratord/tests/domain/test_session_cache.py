"""Which slot holds whose cache, and which slot a task asks for: LO-ORC-127."""

from __future__ import annotations

import pytest

from orchestratord.domain.budgets import Ledger, Limits
from orchestratord.domain.sessions import CachePlace, Session, SessionTable, SessionTerms

TERMS = SessionTerms(ttl_ms=600_000, max_turns=8, limits=Limits())


def place(slot: int, replica_id: str = "chat/0", pid: int = 1) -> CachePlace:
    return CachePlace(replica_id, slot, pid)


def table_of(count: int) -> tuple[SessionTable, list[Session]]:
    """Sessions s0, s1, …, of which each was at work a second after the one before."""
    table = SessionTable(TERMS)
    return table, [table.open(f"s{n}", TERMS, 100.0 + n, 1) for n in range(count)]


def test_a_session_asks_for_the_slot_it_used_last() -> None:
    table, (session,) = table_of(1)
    for slot in (2, 0, 1):
        assert table.used_slot(place(slot), session, 0.9) is None
        assert table.preferred_slot("chat/0", session, 4, set()) == slot
    assert (session.place, session.kv_warmth) == (place(1), 0.9)


def test_a_slot_that_is_busy_or_elsewhere_is_not_asked_for() -> None:
    table, (session, other) = table_of(2)
    table.used_slot(place(1), session, 0.9)
    table.used_slot(place(0), other, 0.9)
    assert table.preferred_slot("chat/0", session, 3, {1}) == 2
    assert table.preferred_slot("chat/1", session, 3, set()) == 0
    assert table.preferred_slot("chat/0", session, 2, {0, 1}) is None


def test_a_stranger_asks_for_a_slot_without_a_cache_before_it_takes_one() -> None:
    table, sessions = table_of(3)
    for slot, session in enumerate(reversed(sessions)):
        table.used_slot(place(slot), session, 0.9)
    asked = [table.preferred_slot("chat/0", None, 4, busy) for busy in (set(), {3}, {3, 2})]
    assert asked == [3, 2, 1]


@pytest.mark.parametrize("warmth", [0.0, 0.9])
def test_whoever_was_in_a_slot_before_is_cold_from_then_on(warmth: float) -> None:
    table, (session, other) = table_of(2)
    table.used_slot(place(0), session, 0.9)
    assert table.used_slot(place(0), other, warmth) == "s0"
    assert (session.place, session.kv_warmth) == (None, 0.0)
    assert (other.place, other.kv_warmth) == (place(0), warmth)
    assert table.used_slot(place(0), None, 0.0) == "s1"
    assert other.place is None


def test_a_deleted_session_has_no_cache_and_gets_none() -> None:
    table, (session,) = table_of(1)
    table.used_slot(place(0), session, 0.9)
    table.delete(session)
    assert (session.place, session.kv_warmth) == (None, 0.0)
    assert table.used_slot(place(0), None, 0.0) is None
    assert table.used_slot(place(1), session, 0.9) is None
    assert session.place is None


def test_a_session_that_went_cold_and_moved_is_not_cooled_at_its_old_slot() -> None:
    table, (session, other) = table_of(2)
    table.used_slot(place(0), session, 0.9)
    session.cool()
    table.used_slot(place(1, pid=2), session, 0.5)
    assert table.used_slot(place(0, pid=2), other, 0.5) is None
    assert (session.place, session.kv_warmth) == (place(1, pid=2), 0.5)


def test_the_slot_of_a_session_that_ended_is_nobodys() -> None:
    table, (session, other) = table_of(2)
    table.used_slot(place(0), session, 0.9)
    table.used_slot(place(1), other, 0.9)
    assert table.expire(700.0) == ["s0"]
    assert table.preferred_slot("chat/0", None, 2, set()) == 0


def test_a_slot_that_a_session_left_is_nobodys() -> None:
    table, (session,) = table_of(1)
    table.used_slot(place(0), session, 0.9)
    table.used_slot(place(0, "chat/1"), session, 0.9)
    assert table.preferred_slot("chat/0", None, 2, set()) == 0
    assert table.preferred_slot("chat/1", None, 2, set()) == 1


def test_a_session_that_begins_anew_has_no_cache() -> None:
    table, (session, other) = table_of(2)
    table.used_slot(place(0), session, 0.9)
    table.used_slot(place(1), other, 0.9)
    again = table.open("s0", TERMS, 700.5, 2)
    assert (again.place, again.kv_warmth) == (None, 0.0)
    assert table.preferred_slot("chat/0", again, 2, set()) == 0
    assert table.used_slot(place(0), None, 0.0) is None


def test_a_slot_that_is_no_more_is_not_asked_for() -> None:
    """A pool may come back with fewer slots."""
    table, (session,) = table_of(1)
    table.used_slot(place(3), session, 0.9)
    assert table.preferred_slot("chat/0", session, 2, set()) == 0


def test_an_empty_slot_goes_before_a_cache_from_before_the_clock_began() -> None:
    """Soon after a boot a session of an earlier life was last at work at a negative time."""
    table = SessionTable(TERMS)
    table.restore(Session("s", 1, TERMS, -5.0, Ledger(), place=place(0)))
    assert table.preferred_slot("chat/0", None, 2, set()) == 1
