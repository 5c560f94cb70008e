"""Sessions: short-lived runs of one agent, with turns, budgets and a warm cache.

A session begins with its first task, or when its settings are written, and ends
when nothing of it was queued or running for its TTL.  A deleted one is out of
sight and out of the cache at once, but what it spent counts until its TTL has
passed: deleting a session is no way around a budget.

Where its cache is, is known by slot: a slot that another task has used holds
that task's text, so the session that was there before is cold from then on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestratord.domain.budgets import Amounts, Ledger, Limits
from orchestratord.domain.prediction import Average
from orchestratord.errors import BudgetExhausted, SessionsFull, SessionTurnsExhausted

SESSIONS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What a session is allowed."""

    ttl_ms: int
    max_turns: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class CachePlace:
    """The slot that holds a session's cache; `pid` tells one launch from the next."""

    replica_id: str
    slot: int
    pid: int | None


@dataclass(slots=True, eq=False)
class Session:
    """One session; `touched_at` in monotonic seconds."""

    session_id: str
    created_ms: int
    terms: SessionTerms
    touched_at: float
    ledger: Ledger
    turns: int = 0
    deleted: bool = False
    tasks: set[str] = field(default_factory=set)
    place: CachePlace | None = None
    kv_warmth: float = 0.0
    earlier: set[str] = field(default_factory=set)
    """Its tasks from before it was deleted; their turns are counted no more."""
    opened: bool = False
    """Whether somebody wrote its settings."""
    revived: bool = False
    """Whether a task brought it back after it was deleted."""
    stored: bool = False
    """Whether it has a row on disk; one that has none goes with its first task."""
    output_share: Average = field(default_factory=Average)
    """Output tokens over `max_tokens`, of its finished tasks."""

    def expires_in_ms(self, now: float) -> int:
        """Time to its end if nothing happens; all of its TTL while it has tasks."""
        if self.tasks:
            return self.terms.ttl_ms
        return max(0, self.terms.ttl_ms - round((now - self.touched_at) * 1000))

    def is_at(self, key: tuple[str, int]) -> bool:
        """Whether its cache is in this slot of this replica."""
        return self.place is not None and (self.place.replica_id, self.place.slot) == key

    def cool(self) -> None:
        """Its cache is gone."""
        self.place, self.kv_warmth = None, 0.0


class SessionTable:
    """Every session there is; the one place where they change."""

    def __init__(self, defaults: SessionTerms) -> None:
        self.defaults = defaults
        self._sessions: dict[str, Session] = {}
        self._warm: dict[tuple[str, int], str] = {}
        self._evictions: dict[str, int] = {}

    def find(self, session_id: str, now: float) -> Session | None:
        """A session a client may see; None when unknown, ended or deleted."""
        session = self.known(session_id, now)
        return None if session is None or session.deleted else session

    def known(self, session_id: str, now: float) -> Session | None:
        """A session that has not ended, deleted or not."""
        session = self._sessions.get(session_id)
        if session is not None and session.expires_in_ms(now) == 0:
            return None
        return session

    def ledger(self, session_id: str, now: float) -> Ledger:
        """The budgets a task of this session would meet."""
        session = self.known(session_id, now)
        return Ledger(self.defaults.limits) if session is None else session.ledger

    def live(self, now: float) -> Iterable[Session]:
        """Every session a client may see, oldest first."""
        return [s for s in self._sessions.values() if not s.deleted and s.expires_in_ms(now) > 0]

    def of_task(self, session_id: str) -> Session | None:
        """The session a task of an earlier life belongs to, deleted or not."""
        return self._sessions.get(session_id)

    def restore(self, session: Session) -> None:
        """Take up a session of an earlier life of the daemon."""
        self._sessions[session.session_id] = session
        if session.place is not None:
            self._warm[session.place.replica_id, session.place.slot] = session.session_id

    def check(self, session_id: str, hold: Amounts, now: float) -> None:
        """Whether it may take one more task; changes nothing.

        Raises:
            SessionsFull: it would be one too many.
            SessionTurnsExhausted: it has run as many tasks as it may.
            BudgetExhausted: a budget cannot bear the hold.
        """
        session = self.known(session_id, now)
        terms = self.defaults if session is None else session.terms
        turns = 0 if session is None or session.deleted else session.turns
        if session is None and len(self._sessions) >= SESSIONS_MAX:
            raise SessionsFull(SESSIONS_MAX)
        if turns >= terms.max_turns:
            raise SessionTurnsExhausted(session_id, terms.max_turns)
        shortage = self.ledger(session_id, now).shortage(hold)
        if shortage is not None:
            raise BudgetExhausted(session_id, shortage.budget, shortage.wanted, shortage.remaining)

    def admit(
        self, session_id: str, task_id: str, hold: Amounts, now: float, unix_ms: int
    ) -> Session:
        """Take a turn and hold the amounts; `check` has passed."""
        known = self.known(session_id, now)
        revives = known is not None and known.deleted
        session = self._opened(session_id, now, unix_ms)
        session.revived = session.revived or revives
        session.turns += 1
        session.tasks.add(task_id)
        session.ledger.reserve(hold)
        session.touched_at = now
        return session

    def withdraw(self, session: Session, task_id: str, hold: Amounts) -> None:
        """Undo `admit`: the task was not accepted after all."""
        if task_id not in session.earlier:
            session.turns -= 1
        session.tasks.discard(task_id)
        session.ledger.release(hold)
        if session.revived and session.turns == 0:
            session.deleted = True
        if not session.stored and not session.opened and not session.tasks:
            self._forget(session.session_id)

    def settle(
        self, session: Session, task_id: str, hold: Amounts, used: Amounts, now: float
    ) -> Amounts:
        """A task has ended; returns what it was charged."""
        session.tasks.discard(task_id)
        session.touched_at = now
        return session.ledger.settle(hold, used)

    def displace(self, place: CachePlace, session: Session | None) -> str | None:
        """A task begins in a slot: what another session had there is gone; returns its id."""
        key = (place.replica_id, place.slot)
        before = self._sessions.get(self._warm.get(key, ""))
        if before is session and session is not None:
            return None
        self._warm.pop(key, None)
        if before is None or not before.is_at(key):
            return None
        before.cool()
        return before.session_id

    def notice_launches(self, pids: Mapping[str, int | None]) -> None:
        """A cache is gone with the launch it was in; `pids` of the replicas there are now."""
        for key, session_id in tuple(self._warm.items()):
            session = self._sessions.get(session_id)
            place = None if session is None else session.place
            if place is None or pids.get(place.replica_id, -1) != place.pid:
                self._lose(key)

    def notice_evictions(self, counts: Mapping[str, int | None]) -> None:
        """An engine took caches from what ran: whose they were it does not tell.

        So no session there is called warm until its next turn.  `counts` are those of
        the replicas there are now, each since its launch; None where it does not tell.
        """
        told = {replica_id: n for replica_id, n in counts.items() if n is not None}
        for key in tuple(self._warm):
            replica_id = key[0]
            if told.get(replica_id, 0) > self._evictions.get(replica_id, 0):
                self._lose(key)
        self._evictions = told

    def _lose(self, key: tuple[str, int]) -> None:
        """The cache in this slot is gone."""
        session = self._sessions.get(self._warm.pop(key))
        if session is not None and session.is_at(key):
            session.cool()

    def used_slot(self, place: CachePlace, session: Session | None, warmth: float) -> str | None:
        """A task has run in a slot: whoever's cache was there has lost it.

        Returns the id of the other session that was there, if any.
        """
        displaced = self.displace(place, session)
        if session is None or session.deleted:
            return displaced
        if session.place is not None:
            self._warm.pop((session.place.replica_id, session.place.slot), None)
        session.place, session.kv_warmth = place, warmth
        self._warm[place.replica_id, place.slot] = session.session_id
        return displaced

    def preferred_slot(
        self, replica_id: str, session: Session | None, slots: int, busy: set[int]
    ) -> int | None:
        """The slot to ask for: the session's own, else one nobody's cache is in.

        Where every free slot holds a cache, the one unused for longest goes.
        None where no slot is known to be free.
        """
        place = None if session is None else session.place
        free = [slot for slot in range(slots) if slot not in busy]
        if place is not None and place.replica_id == replica_id and place.slot in free:
            return place.slot
        return min(free, key=lambda slot: (self._warm_since(replica_id, slot), slot), default=None)

    def open(self, session_id: str, terms: SessionTerms, now: float, unix_ms: int) -> Session:
        """Make a session, or change what one is allowed; what it spent stays.

        Raises:
            SessionsFull: it would be one too many.
        """
        if self.known(session_id, now) is None and len(self._sessions) >= SESSIONS_MAX:
            raise SessionsFull(SESSIONS_MAX)
        session = self._opened(session_id, now, unix_ms)
        session.opened, session.revived = True, False
        session.terms = terms
        session.ledger.limits = terms.limits
        session.touched_at = now
        return session

    def revoke(self, session: Session, terms: SessionTerms, before: Session | None) -> None:
        """Undo `open`: its terms could not be written; `before` is a copy of how it was.

        Nothing is undone where somebody has changed them since.
        """
        if session.terms is not terms:
            return
        if before is not None:
            session.terms, session.ledger.limits = before.terms, before.terms.limits
            session.opened, session.deleted = before.opened, before.deleted and not session.tasks
            session.turns = before.turns if session.deleted else session.turns
            return
        session.terms, session.ledger.limits = self.defaults, self.defaults.limits
        session.opened = False
        if not session.tasks and not session.stored:
            self._forget(session.session_id)

    def delete(self, session: Session) -> None:
        """Take it out of sight and out of the cache; its spend stays until its TTL."""
        session.deleted, session.earlier = True, set(session.tasks)
        if session.place is not None:
            self._warm.pop((session.place.replica_id, session.place.slot), None)
        session.cool()

    def expire(self, now: float) -> list[str]:
        """Forget what has ended; returns the ids."""
        ended = [s.session_id for s in self._sessions.values() if s.expires_in_ms(now) == 0]
        for session_id in ended:
            self._forget(session_id)
        return ended

    def _opened(self, session_id: str, now: float, unix_ms: int) -> Session:
        session = self.known(session_id, now)
        if session is None:
            self._forget(session_id)
            session = Session(session_id, unix_ms, self.defaults, now, Ledger(self.defaults.limits))
            self._sessions[session_id] = session
        elif session.deleted:
            session.deleted, session.turns = False, 0
        return session

    def _forget(self, session_id: str) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None and session.place is not None:
            self._warm.pop((session.place.replica_id, session.place.slot), None)

    def _warm_since(self, replica_id: str, slot: int) -> float:
        """When the session whose cache a slot holds was last at work; long ago for none."""
        session = self._sessions.get(self._warm.get((replica_id, slot), ""))
        return -math.inf if session is None else session.touched_at
