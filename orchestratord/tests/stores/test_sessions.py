"""Session rows: differences that commute, and limits the table keeps by itself."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from contracts.tasks import TaskState
from orchestratord.domain.budgets import Amounts, Ledger, Limits
from orchestratord.domain.sessions import CachePlace, Session, SessionTerms
from orchestratord.errors import StorageBusy
from orchestratord.stores.database import Database
from orchestratord.stores.sessions import SessionHold, SessionStore, Settlement, session_of
from orchestratord.stores.tasks import LostRace, NewTask, TaskStore
from orchestratord.tests.stores.rows import id_of, new_task, outcome

pytestmark = pytest.mark.anyio

SESSION = id_of(900)
TERMS = SessionTerms(5_000, 9, Limits(tokens=100, time_ms=1_000, cost=50))
HOLD = Amounts(40, 400, 20)


def held(hold: Amounts = HOLD, *, created_ms: int = 1_000, is_new: bool = True) -> SessionHold:
    return SessionHold(SESSION, created_ms, created_ms + 5_000, TERMS, hold, is_new)


def task(number: int, hold: Amounts = HOLD) -> NewTask:
    plain = new_task(number, session_id=SESSION)
    return NewTask(
        **{name: getattr(plain, name) for name in NewTask.__slots__ if name != "hold"}, hold=hold
    )


async def row_of(database: Database) -> dict[str, Any]:
    rows = await database.read(lambda c: c.execute("SELECT * FROM sessions").fetchall())
    assert len(rows) == 1
    return dict(rows[0])


def amounts(row: dict[str, Any], what: str) -> Amounts:
    return Amounts(row[f"tokens_{what}"], row[f"time_{what}_ms"], row[f"cost_{what}"])


async def test_a_task_and_what_it_holds_are_written_together(
    database: Database, store: TaskStore
) -> None:
    """LO-ORC-123."""
    await store.insert(task(1), held())
    await store.insert(task(2), held())
    row = await row_of(database)
    assert (row["turns"], amounts(row, "reserved")) == (2, Amounts(80, 800, 40))
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(lambda c: c.execute("UPDATE sessions SET tokens_reserved = 101"))


@pytest.mark.parametrize("over", [Amounts(21), Amounts(time_ms=201), Amounts(cost=11)])
async def test_the_table_itself_refuses_to_overspend(
    database: Database, store: TaskStore, over: Amounts
) -> None:
    """LO-ORC-123: memory decides, and the table would stop a memory that is wrong."""
    await store.insert(task(1), held())
    await store.insert(task(2), held())
    with pytest.raises(StorageBusy):
        await store.insert(task(3, over), held(over))
    assert await store.get(id_of(3)) is None
    row = await row_of(database)
    assert (row["turns"], amounts(row, "reserved")) == (2, Amounts(80, 800, 40))


async def test_an_end_gives_back_what_its_own_task_held(
    database: Database, store: TaskStore
) -> None:
    """LO-ORC-124."""
    await store.insert(task(1), held())
    await store.insert(task(2), held())
    await store.extend_time(id_of(1), SESSION, 100)
    place = CachePlace("chat/0", 3, 77)
    charge = Amounts(30, 450, 5)
    settlement = Settlement(SESSION, 9_000, charge, place, 0.5)
    await store.finish(id_of(1), outcome(), settlement)
    row = await row_of(database)
    assert amounts(row, "reserved") == HOLD
    assert amounts(row, "spent") == charge
    assert (row["replica_id"], row["slot"], row["pid"], row["kv_warmth"]) == ("chat/0", 3, 77, 0.5)
    assert row["expires_ms"] == 9_000
    with pytest.raises(LostRace):
        await store.finish(id_of(1), outcome(TaskState.CANCELED), settlement)
    assert await row_of(database) == row


async def test_a_displaced_session_loses_its_place(database: Database, store: TaskStore) -> None:
    await store.insert(task(1), held())
    await store.finish(
        id_of(1), outcome(), Settlement(SESSION, 9_000, HOLD, CachePlace("chat/0", 0, 1), 1.0)
    )
    await store.insert(new_task(2))
    await store.finish(id_of(2), outcome(), Settlement(None, displaced=(SESSION,)))
    row = await row_of(database)
    assert (row["replica_id"], row["slot"], row["kv_warmth"]) == (None, None, 0)


async def test_a_limit_may_be_lowered_below_what_is_spent_and_then_only_falls(
    database: Database, store: TaskStore
) -> None:
    """LO-ORC-145."""
    sessions = SessionStore(database)
    await store.insert(task(1), held())
    terms = SessionTerms(5_000, 9, Limits(tokens=10))
    await sessions.put(Session(SESSION, 1_000, terms, 0.0, Ledger(terms.limits)), 7_000)
    row = await row_of(database)
    assert (row["tokens_limit"], row["time_limit_ms"], row["expires_ms"]) == (10, None, 7_000)
    with pytest.raises(StorageBusy):
        await store.insert(task(2, Amounts(1)), held(Amounts(1)))
    await store.finish(id_of(1), outcome(), Settlement(SESSION, 7_000, Amounts(35)))
    assert amounts(await row_of(database), "spent") == Amounts(35)


async def test_an_id_that_is_used_again_after_its_end_begins_anew(
    database: Database, store: TaskStore
) -> None:
    await store.insert(task(1), held())
    await store.finish(id_of(1), outcome(), Settlement(SESSION, 6_000, HOLD))
    await store.insert(task(2), held(created_ms=60_000))
    row = await row_of(database)
    assert (row["turns"], amounts(row, "spent"), amounts(row, "reserved")) == (1, Amounts(), HOLD)
    await SessionStore(database).forget([SESSION], 64_999)
    assert await row_of(database) == row, "the one that began since is not forgotten"
    await SessionStore(database).forget([SESSION], 65_000)
    assert await SessionStore(database).all() == []


async def test_a_deleted_session_is_revived_with_its_spend(
    database: Database, store: TaskStore
) -> None:
    """LO-ORC-126."""
    await store.insert(task(1), held())
    await store.finish(id_of(1), outcome(), Settlement(SESSION, 6_000, HOLD))
    await SessionStore(database).delete(SESSION)
    assert (await row_of(database))["deleted"] == 1
    await store.insert(task(2), held(is_new=False))
    row = await row_of(database)
    assert (row["deleted"], row["turns"], amounts(row, "spent")) == (0, 1, HOLD)


@pytest.mark.parametrize(
    ("unix_ms", "left_s"), [(1_000, 5.0), (4_000, 2.0), (9_999, 0.0), (-50_000, 5.0)]
)
async def test_a_row_is_a_session_again_whatever_the_wall_clock_did(
    database: Database, store: TaskStore, unix_ms: int, left_s: float
) -> None:
    await store.insert(task(1), held())
    (row,) = await SessionStore(database).all()
    session = session_of(row, 100.0, unix_ms)
    assert session.expires_in_ms(100.0) == left_s * 1000
    assert session.ledger == Ledger(TERMS.limits, HOLD, Amounts())
    assert (session.terms, session.stored, session.place) == (TERMS, True, None)
