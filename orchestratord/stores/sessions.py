"""Session rows: each change as a difference, one statement, beside the change of its task.

Differences commute: a write that fails takes nothing of another one with it, as
a row written whole would.  The statements run inside the transaction that
accepts or ends a task, so that a hold is on disk exactly when its task is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from orchestratord.domain.budgets import NOTHING, Amounts, Ledger, Limits
from orchestratord.domain.sessions import CachePlace, Session, SessionTerms
from orchestratord.stores.database import Database


@dataclass(frozen=True, slots=True)
class SessionHold:
    """One more task of a session; times in Unix ms."""

    session_id: str
    created_ms: int
    expires_ms: int
    terms: SessionTerms
    hold: Amounts
    is_new: bool
    """Whether the session may have no row yet."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a task, as its session and the slot it ran in see it."""

    session_id: str | None
    expires_ms: int = 0
    charge: Amounts = NOTHING
    place: CachePlace | None = None
    kv_warmth: float = 0.0
    displaced: tuple[str, ...] = ()
    """Sessions whose cache was in the slot before."""


NO_SESSION = Settlement(None)
"""Of a task that belongs to none, and displaced nobody."""


class SessionStore:
    """The table of sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[sqlite3.Row]:
        """Every session there is."""
        return await self._database.read(
            lambda connection: connection.execute("SELECT * FROM sessions").fetchall()
        )

    async def put(self, session: Session, expires_ms: int) -> None:
        """Write what a session is allowed; what it spent stays."""
        terms = session.terms
        values = _open_values(session.session_id, session.created_ms, expires_ms, terms)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_OPEN, values)
            connection.execute(_TERMS, values)

        await self._database.write(write)

    async def delete(self, session_id: str) -> None:
        """Mark a session deleted; its spend stays until it is forgotten."""
        await self._database.write(
            lambda connection: connection.execute(_DELETE, (session_id,)), essential=True
        )

    async def forget(self, ids: Sequence[str], now_ms: int) -> None:
        """Remove sessions that have ended, unless one of the id has begun since."""
        rows = [(session_id, now_ms) for session_id in ids]
        await self._database.write(
            lambda connection: connection.executemany(_FORGET, rows), essential=True
        )


def hold(connection: sqlite3.Connection, change: SessionHold) -> None:
    """Take a turn and hold the amounts, inside the transaction that accepts the task.

    Raises:
        sqlite3.IntegrityError: a limit would be passed.
    """
    if change.is_new:
        values = _open_values(change.session_id, change.created_ms, change.expires_ms, change.terms)
        connection.execute(_OPEN, values)
    connection.execute(_HOLD, (change.expires_ms, *change.hold, change.session_id))


def extend_time(connection: sqlite3.Connection, session_id: str, task_id: str, ms: int) -> None:
    """Hold more time for a task that runs; one that has ended meanwhile holds nothing.

    Raises:
        sqlite3.IntegrityError: the limit was lowered meanwhile.
    """
    if connection.execute(_EXTEND, (ms, task_id)).rowcount == 0:
        return
    connection.execute(
        "UPDATE sessions SET time_reserved_ms = time_reserved_ms + ? WHERE session_id = ?",
        (ms, session_id),
    )


def settle(connection: sqlite3.Connection, task_id: str, settlement: Settlement) -> None:
    """Give back what the task held and charge what it used, inside its last transaction."""
    for session_id in settlement.displaced:
        connection.execute(_COOL, (session_id,))
    if settlement.session_id is None:
        return
    place = settlement.place
    values = {
        "task": task_id,
        "session": settlement.session_id,
        "expires": settlement.expires_ms,
        "tokens": settlement.charge.tokens,
        "time": settlement.charge.time_ms,
        "cost": settlement.charge.cost,
        "replica": None if place is None else place.replica_id,
        "slot": None if place is None else place.slot,
        "pid": None if place is None else place.pid,
        "warmth": settlement.kv_warmth,
    }
    connection.execute(_SETTLE, values)


def session_of(row: sqlite3.Row, now: float, unix_ms: int) -> Session:
    """A row as a session of today's monotonic clock."""
    terms = SessionTerms(
        row["ttl_ms"],
        row["max_turns"],
        Limits(row["tokens_limit"], row["time_limit_ms"], row["cost_limit"]),
    )
    ledger = Ledger(
        terms.limits,
        Amounts(row["tokens_reserved"], row["time_reserved_ms"], row["cost_reserved"]),
        Amounts(row["tokens_spent"], row["time_spent_ms"], row["cost_spent"]),
    )
    # A wall clock that was set back, or forward, ends no session early and none late.
    left_ms = min(max(0, row["expires_ms"] - unix_ms), terms.ttl_ms)
    place = None
    if row["replica_id"] is not None:
        place = CachePlace(row["replica_id"], row["slot"], row["pid"])
    return Session(
        session_id=row["session_id"],
        created_ms=row["created_ms"],
        terms=terms,
        touched_at=now - (terms.ttl_ms - left_ms) / 1000,
        ledger=ledger,
        turns=row["turns"],
        deleted=bool(row["deleted"]),
        place=place,
        kv_warmth=row["kv_warmth"],
        stored=True,
    )


def _open_values(
    session_id: str, created_ms: int, expires_ms: int, terms: SessionTerms
) -> dict[str, object]:
    return {
        "session": session_id,
        "created": created_ms,
        "expires": expires_ms,
        "ttl": terms.ttl_ms,
        "turns": terms.max_turns,
        "tokens": terms.limits.tokens,
        "time": terms.limits.time_ms,
        "cost": terms.limits.cost,
    }


# A row of the same id with another time of creation is one that has ended.
_OPEN = """
INSERT INTO sessions (session_id, created_ms, expires_ms, ttl_ms, max_turns,
                      tokens_limit, time_limit_ms, cost_limit)
VALUES (:session, :created, :expires, :ttl, :turns, :tokens, :time, :cost)
ON CONFLICT (session_id) DO UPDATE
SET created_ms = excluded.created_ms, expires_ms = excluded.expires_ms,
    ttl_ms = excluded.ttl_ms, max_turns = excluded.max_turns, turns = 0, deleted = 0,
    tokens_limit = excluded.tokens_limit, tokens_reserved = 0, tokens_spent = 0,
    time_limit_ms = excluded.time_limit_ms, time_reserved_ms = 0, time_spent_ms = 0,
    cost_limit = excluded.cost_limit, cost_reserved = 0, cost_spent = 0,
    replica_id = NULL, slot = NULL, pid = NULL, kv_warmth = 0
WHERE sessions.created_ms <> excluded.created_ms
"""
_TERMS = """
UPDATE sessions
SET expires_ms = :expires, ttl_ms = :ttl, max_turns = :turns, tokens_limit = :tokens,
    time_limit_ms = :time, cost_limit = :cost,
    turns = CASE deleted WHEN 1 THEN 0 ELSE turns END, deleted = 0
WHERE session_id = :session
"""
_HOLD = """
UPDATE sessions
SET expires_ms = ?, turns = CASE deleted WHEN 1 THEN 1 ELSE turns + 1 END, deleted = 0,
    tokens_reserved = tokens_reserved + ?, time_reserved_ms = time_reserved_ms + ?,
    cost_reserved = cost_reserved + ?
WHERE session_id = ?
"""
_EXTEND = """
UPDATE tasks SET held_time_ms = held_time_ms + ? WHERE task_id = ? AND finished_ms IS NULL
"""
# A session that ended and began anew while this end was waiting for the disk holds
# nothing for the task: less than nothing is nothing.
_SETTLE = """
UPDATE sessions
SET expires_ms = :expires,
    tokens_reserved = max(0, tokens_reserved - task.held_tokens),
    tokens_spent = tokens_spent + :tokens,
    time_reserved_ms = max(0, time_reserved_ms - task.held_time_ms),
    time_spent_ms = time_spent_ms + :time,
    cost_reserved = max(0, cost_reserved - task.held_cost), cost_spent = cost_spent + :cost,
    replica_id = :replica, slot = :slot, pid = :pid, kv_warmth = :warmth
FROM (SELECT held_tokens, held_time_ms, held_cost FROM tasks WHERE task_id = :task) AS task
WHERE session_id = :session
"""
_COOL = """
UPDATE sessions SET replica_id = NULL, slot = NULL, pid = NULL, kv_warmth = 0
WHERE session_id = ?
"""
_DELETE = """
UPDATE sessions SET deleted = 1, replica_id = NULL, slot = NULL, pid = NULL, kv_warmth = 0
WHERE session_id = ?
"""
_FORGET = "DELETE FROM sessions WHERE session_id = ? AND expires_ms <= ?"
