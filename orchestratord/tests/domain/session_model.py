"""Sessions as plainly as they can be written: for comparison with the real table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from contracts.errors import Refusal
from orchestratord.domain.budgets import NAMES, NOTHING, Amounts
from orchestratord.domain.sessions import SessionTerms
from orchestratord.errors import BudgetExhausted, SessionTurnsExhausted

Slot = tuple[str, int]


@dataclass(slots=True)
class PlainSession:
    """One session; times are whole milliseconds."""

    terms: SessionTerms
    touched_ms: int
    turns: int = 0
    deleted: bool = False
    stored: bool = False
    holds: dict[str, Amounts] = field(default_factory=dict)
    uncommitted: set[str] = field(default_factory=set)
    spent: Amounts = NOTHING
    slot: Slot | None = None

    @property
    def reserved(self) -> Amounts:
        return sum(self.holds.values(), NOTHING)

    def ended(self, now_ms: int) -> bool:
        return not self.holds and now_ms - self.touched_ms >= self.terms.ttl_ms

    def left(self, name: str) -> int | None:
        limit: int | None = getattr(self.terms.limits, name)
        if limit is None:
            return None
        used: int = getattr(self.spent + self.reserved, name)
        return max(0, limit - used)


class PlainSessions:
    """A dict, in which what has ended stays until somebody clears it away."""

    def __init__(self, defaults: SessionTerms) -> None:
        self.defaults = defaults
        self.all: dict[str, PlainSession] = {}
        self.now_ms = 0

    def known(self, session_id: str) -> PlainSession | None:
        session = self.all.get(session_id)
        return None if session is None or session.ended(self.now_ms) else session

    def refusal(self, session_id: str, hold: Amounts) -> type[Refusal] | None:
        """Why one more task may not be, in the order of the checks; None where it may."""
        session = self.known(session_id) or PlainSession(self.defaults, self.now_ms)
        turns = 0 if session.deleted else session.turns
        if turns >= session.terms.max_turns:
            return SessionTurnsExhausted
        for name in NAMES:
            left, wanted = session.left(name), getattr(hold, name)
            if left is not None and (left == 0 or left < wanted):
                return BudgetExhausted
        return None

    def opened(self, session_id: str) -> PlainSession:
        """The session, begun or brought back if need be."""
        session = self.known(session_id)
        if session is None:
            self.all.pop(session_id, None)
            session = self.all[session_id] = PlainSession(self.defaults, self.now_ms)
        elif session.deleted:
            session.deleted, session.turns = False, 0
        session.touched_ms = self.now_ms
        return session

    def admit(self, session_id: str, task_id: str, hold: Amounts) -> None:
        session = self.opened(session_id)
        session.turns += 1
        session.holds[task_id] = hold
        session.uncommitted.add(task_id)

    def commit(self, session_id: str, task_id: str) -> None:
        session = self.all[session_id]
        session.uncommitted.discard(task_id)
        session.stored = True

    def withdraw(self, session_id: str, task_id: str) -> None:
        session = self.all[session_id]
        session.turns -= 1
        session.uncommitted.discard(task_id)
        del session.holds[task_id]
        if not session.stored and not session.holds:
            del self.all[session_id]

    def settle(self, session_id: str, task_id: str, used: Amounts) -> Amounts:
        """Returns the charge: what was used, cut to what was held, or to the time that is left."""
        session = self.all[session_id]
        hold = session.holds.pop(task_id)
        charge = dict[str, int]()
        for name, amount in zip(NAMES, used, strict=True):
            left, most = session.left(name), getattr(hold, name)
            if name == "time_ms":
                most = max(most, left or 0)
            charge[name] = amount if left is None else min(amount, most)
        session.spent += Amounts(**charge)
        session.touched_ms = self.now_ms
        return Amounts(**charge)

    def set_terms(self, session_id: str, terms: SessionTerms) -> None:
        session = self.opened(session_id)
        session.terms = replace(terms)
        session.stored = True

    def delete(self, session_id: str) -> None:
        session = self.all[session_id]
        session.deleted, session.slot = True, None

    def use_slot(self, slot: Slot, session_id: str | None) -> str | None:
        """Whoever else had its cache there has lost it; returns who that was."""
        lost = None
        for other, session in self.all.items():
            if session.slot == slot and other != session_id:
                session.slot, lost = None, other
        if session_id is not None and not self.all[session_id].deleted:
            self.all[session_id].slot = slot
        return lost

    def slot_for(self, replica_id: str, session_id: str | None, free: list[int]) -> int | None:
        """Its own, else one that nobody's cache is in, else the one unused for longest."""
        session = None if session_id is None else self.known(session_id)
        own = None if session is None else session.slot
        if own is not None and own[0] == replica_id and own[1] in free:
            return own[1]
        touched = {s.slot: s.touched_ms for s in self.all.values()}
        return min(free, key=lambda n: (touched.get((replica_id, n), -1), n), default=None)

    def sweep(self) -> set[str]:
        """Forget what has ended; returns the ids."""
        ended = {name for name, session in self.all.items() if session.ended(self.now_ms)}
        for name in ended:
            del self.all[name]
        return ended
