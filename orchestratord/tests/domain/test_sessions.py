"""The table of sessions against a plain one: LO-ORC-123 to LO-ORC-127."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestratord.domain.budgets import NOTHING, Amounts, Limits
from orchestratord.domain.sessions import CachePlace, Session, SessionTable, SessionTerms
from orchestratord.tests.domain.scheduling import machine_settings
from orchestratord.tests.domain.session_model import PlainSession, PlainSessions

IDS = ("s0", "s1", "s2", "s3")
REPLICAS = ("chat/0", "chat/1")
SLOTS = 2
DEFAULTS = SessionTerms(ttl_ms=4_000, max_turns=3, limits=Limits(tokens=60, time_ms=90, cost=500))
BEGAN_MS = 1_000_000

amounts = st.builds(Amounts, st.integers(0, 30), st.integers(0, 40), st.integers(0, 300))
bound = st.none() | st.integers(1, 100)
terms = st.builds(
    SessionTerms,
    st.sampled_from((1_000, 4_000, 9_000)),
    st.integers(1, 5),
    st.builds(Limits, bound, bound, bound),
)
slots = st.tuples(st.sampled_from(REPLICAS), st.integers(0, SLOTS - 1))


class SessionMachine(RuleBasedStateMachine):
    """Everything that may happen to sessions, in any order, while time passes.

    A session is not deleted while a commit of it is under way, and an admission
    that brings a deleted one back is committed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = SessionTable(DEFAULTS)
        self.model = PlainSessions(DEFAULTS)
        self.model.now_ms = BEGAN_MS
        self.sessions: dict[str, Session] = {}
        self.tasks = 0

    @property
    def now(self) -> float:
        return self.model.now_ms / 1_000

    @rule(ms=st.sampled_from((1, 499, 999, 1_000, 3_999, 4_000)))
    def time_passes(self, ms: int) -> None:
        self.model.now_ms += ms

    @rule(session_id=st.sampled_from(IDS), hold=amounts, commits=st.booleans())
    def admit(self, session_id: str, hold: Amounts, commits: bool) -> None:
        refusal = self.model.refusal(session_id, hold)
        if refusal is not None:
            with pytest.raises(refusal):
                self.table.check(session_id, hold, self.now)
            return
        self.tasks += 1
        task_id, known = f"t{self.tasks}", self.model.known(session_id)
        revived = known is not None and known.deleted
        self.table.check(session_id, hold, self.now)
        self.sessions[session_id] = self.table.admit(
            session_id, task_id, hold, self.now, self.model.now_ms
        )
        self.model.admit(session_id, task_id, hold)
        if commits or revived:
            self._commit(session_id, task_id)

    @precondition(lambda self: any(self._uncommitted()))
    @rule(data=st.data(), commits=st.booleans())
    def commit_ends(self, data: st.DataObject, commits: bool) -> None:
        session_id, task_id = data.draw(st.sampled_from(sorted(self._uncommitted())))
        if commits:
            self._commit(session_id, task_id)
            return
        hold = self.model.all[session_id].holds[task_id]
        self.table.withdraw(self.sessions[session_id], task_id, hold)
        self.model.withdraw(session_id, task_id)

    @precondition(lambda self: any(self._committed()))
    @rule(data=st.data(), used=st.none() | amounts, slot=slots)
    def task_ends(self, data: st.DataObject, used: Amounts | None, slot: tuple[str, int]) -> None:
        """After it ran in a slot, or unused."""
        session_id, task_id = data.draw(st.sampled_from(sorted(self._committed())))
        session, hold = self.sessions[session_id], self.model.all[session_id].holds[task_id]
        if used is not None:
            lost = self.table.used_slot(CachePlace(*slot, pid=1), session, 0.5)
            assert lost == self.model.use_slot(slot, session_id)
        charge = self.table.settle(session, task_id, hold, used or NOTHING, self.now)
        assert charge == self.model.settle(session_id, task_id, used or NOTHING)

    @rule(slot=slots)
    def a_stranger_uses_a_slot(self, slot: tuple[str, int]) -> None:
        lost = self.table.used_slot(CachePlace(*slot, pid=1), None, 0.0)
        assert lost == self.model.use_slot(slot, None)

    @rule(
        replica_id=st.sampled_from(REPLICAS),
        session_id=st.sampled_from((None, *IDS)),
        busy=st.sets(st.integers(0, SLOTS - 1)),
    )
    def a_slot_is_asked_for(self, replica_id: str, session_id: str | None, busy: set[int]) -> None:
        session = None if session_id is None else self.table.known(session_id, self.now)
        asked = self.table.preferred_slot(replica_id, session, SLOTS, busy)
        free = [slot for slot in range(SLOTS) if slot not in busy]
        assert asked == self.model.slot_for(replica_id, session_id, free)

    @rule(session_id=st.sampled_from(IDS), found=terms)
    def open(self, session_id: str, found: SessionTerms) -> None:
        session = self.table.open(session_id, found, self.now, self.model.now_ms)
        session.stored = True
        self.sessions[session_id] = session
        self.model.set_terms(session_id, found)

    @rule(session_id=st.sampled_from(IDS))
    def delete(self, session_id: str) -> None:
        session, known = self.table.known(session_id, self.now), self.model.known(session_id)
        if session is not None and known is not None and not known.uncommitted:
            self.table.delete(session)
            self.model.delete(session_id)

    @rule()
    def expire(self) -> None:
        assert set(self.table.expire(self.now)) == self.model.sweep()

    @invariant()
    def every_session_is_as_in_the_model(self) -> None:
        assert len(self.table._sessions) == len(self.model.all)
        for session_id in IDS:
            session, known = self.table.known(session_id, self.now), self.model.known(session_id)
            assert (session is None) == (known is None)
            if session is not None and known is not None:
                self._compare(session_id, session, known)
        visible = [name for name, s in self.model.all.items() if not s.deleted]
        visible = [name for name in visible if self.model.known(name)]
        assert [s.session_id for s in self.table.live(self.now)] == visible

    @invariant()
    def a_slot_holds_one_cache(self) -> None:
        """LO-ORC-127."""
        places = {name: s.place for name, s in self.table._sessions.items() if s.place}
        found = {name: (place.replica_id, place.slot) for name, place in places.items()}
        assert found == {name: s.slot for name, s in self.model.all.items() if s.slot}
        assert len(set(found.values())) == len(found)

    def _compare(self, session_id: str, session: Session, known: PlainSession) -> None:
        assert (self.table.find(session_id, self.now) is None) == known.deleted
        assert (session.turns, session.tasks) == (known.turns, set(known.holds))
        assert session.ledger is self.table.ledger(session_id, self.now)
        assert (session.ledger.reserved, session.ledger.spent) == (known.reserved, known.spent)
        assert (session.terms, session.ledger.limits) == (known.terms, known.terms.limits)
        idle_ms = 0 if known.holds else self.model.now_ms - known.touched_ms
        assert session.expires_in_ms(self.now) == known.terms.ttl_ms - idle_ms

    def _commit(self, session_id: str, task_id: str) -> None:
        self.sessions[session_id].stored = True
        self.model.commit(session_id, task_id)

    def _uncommitted(self) -> Iterator[tuple[str, str]]:
        for name, session in self.model.all.items():
            yield from ((name, task_id) for task_id in session.uncommitted)

    def _committed(self) -> Iterator[tuple[str, str]]:
        for name, session in self.model.all.items():
            yield from ((name, t) for t in session.holds if t not in session.uncommitted)


class DeepSessionMachine(SessionMachine):
    """The same for longer, from another seed."""


SessionMachine.TestCase.settings = machine_settings(examples=50, steps=50)
DeepSessionMachine.TestCase.settings = machine_settings(examples=200, steps=80)
test_sessions_agree_with_a_plain_table = SessionMachine.TestCase
test_sessions_agree_with_a_plain_table_for_long = pytest.mark.slow(DeepSessionMachine.TestCase)
