"""The scheduler against a model, under everything a dispatcher may do: LO-ORC-033.

Two pools, replicas that come and go, sessions with budgets, both rules for a
full queue, and time.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contracts.tasks import Priority, TaskState
from orchestratord.domain.budgets import NOTHING, Amounts, Limits, Price
from orchestratord.domain.decisions import Ask, Drop, Expire, QueueRules, Start
from orchestratord.domain.placement import Candidate, choose
from orchestratord.domain.prediction import Work
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.sessions import CachePlace, SessionTable, SessionTerms
from orchestratord.domain.task_state import Move
from orchestratord.tests.domain.scheduler_checks import (
    assert_budgets_agree,
    assert_capacity_is_kept,
    assert_forecasts_agree,
    assert_lines_agree,
    refusal_of,
    state_of,
)
from orchestratord.tests.domain.scheduler_model import PlainScheduler, PlainTask
from orchestratord.tests.domain.scheduling import (
    CLASSES,
    POOLS,
    ask,
    candidate,
    committed,
    machine_settings,
)

CAPACITY = 5
MAX_WAIT_S = 2.0
SESSIONS = (None, "x", "y")
DEADLINES_MS = (None, None, 1, 1_000, 4_000)
ENDINGS = (Move.SUCCEED, Move.SUCCEED, Move.SUCCEED, Move.FAIL, Move.CANCEL, Move.RERUN)
TERMS = SessionTerms(5_000, 6, Limits(tokens=300, time_ms=4_000, cost=500_000_000))
LARGER = SessionTerms(8_000, 9, Limits(tokens=500, time_ms=None, cost=2_000_000_000))
PRICE = Price.per_thousand(2.0)

replicas = st.builds(
    candidate,
    st.sampled_from(POOLS),
    st.integers(0, 2),
    st.sampled_from((0, 1, 1, 2, 3)),
    st.sampled_from((0, 12, 24)),
    ready_in_ms=st.sampled_from((None, 500.0)),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Posts, commits, attempts and their endings, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.replicas = {f"{pool_id}/0": candidate(pool_id, 0, slots=2) for pool_id in POOLS}
        self.arrivals: dict[str, tuple[float, int]] = {}
        self.gone: list[str] = []
        self.number = 0
        self.now = 100.0

    @initialize(policy=st.sampled_from(("reject", "drop-lru")))
    def begin(self, policy: Literal["reject", "drop-lru"]) -> None:
        rules = QueueRules(CAPACITY, policy, MAX_WAIT_S)
        self.real = Scheduler(POOLS, rules, SessionTable(TERMS), PRICE)
        self.model = PlainScheduler(CAPACITY, policy == "drop-lru", MAX_WAIT_S)

    # -- what may happen ---------------------------------------------------

    @rule(found=replicas, comes=st.booleans())
    def replicas_change(self, found: Candidate, comes: bool) -> None:
        if comes:
            self.replicas[found.replica_id] = found
        else:
            self.replicas.pop(found.replica_id, None)

    @rule(seconds=st.sampled_from((0.0, 0.25, 1.0, 4.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._decide()

    @rule(
        pool_id=st.sampled_from(POOLS),
        priority=st.sampled_from(CLASSES),
        session_id=st.sampled_from(SESSIONS),
        deadline_ms=st.sampled_from(DEADLINES_MS),
        max_tokens=st.sampled_from((5, 50)),
        commits=st.lists(st.booleans(), min_size=1, max_size=6),
    )
    def post(self, commits: list[bool], **fields: Any) -> None:
        """Several alike at once; some are committed at once."""
        for commit in commits:
            self.number += 1
            asked = ask(f"t{self.number}", prompt_tokens=20, **fields)
            if self._admit(asked) and commit:
                self._commit(len(self.model.held) - 1)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), commits=st.booleans())
    def commit_ends(self, data: st.DataObject, commits: bool) -> None:
        at = data.draw(st.integers(0, len(self.model.held) - 1))
        if commits:
            self._commit(at)
            return
        lines = [self.model.queued(pool_id, self.now) for pool_id in POOLS]
        self.real.withdraw(self.model.held.pop(at))
        assert lines == [self.model.queued(pool_id, self.now) for pool_id in POOLS]

    @precondition(lambda self: not self.arrivals)
    @rule(pool_id=st.sampled_from(POOLS), priority=st.sampled_from(CLASSES))
    def recover(self, pool_id: str, priority: Priority) -> None:
        """A task of an earlier life, which passed no check in this one."""
        self.number += 1
        task_id, work = f"t{self.number}", Work.of(20, 5, None)
        task = ScheduledTask(task_id, pool_id, priority, self.number, self.now, work, 5)
        assert self.real.enqueue(task) == []
        self.model.tasks[task.task_id] = PlainTask.of(task, came_back=True)

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = self.model.tasks[data.draw(st.sampled_from(sorted(self.model.tasks)))]
        queued = task.state is TaskState.QUEUED
        assert self.real.cancel(task.task_id) is queued
        if queued:
            self._end_unused(task.task_id)

    @precondition(lambda self: self.model.running())
    @rule(data=st.data(), moves=st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=3))
    def attempts_end(self, data: st.DataObject, moves: list[Move]) -> None:
        for move in moves[: len(self.model.running())]:
            task = data.draw(st.sampled_from(self.model.running()))
            if move is Move.RERUN:
                self.real.rerun(task.task_id)
                task.state, task.replica_id, task.came_back = TaskState.QUEUED, None, True
            else:
                self._end(task, move, data.draw(st.integers(0, 60)))
        self._decide()

    @precondition(lambda self: any(t.session for t in self.model.running()))
    @rule(data=st.data())
    def time_is_extended(self, data: st.DataObject) -> None:
        running = [task for task in self.model.running() if task.session]
        task = data.draw(st.sampled_from(running))
        assert task.session is not None
        task.hold += Amounts(time_ms=task.session.ledger.extend_time(400))

    @rule(session_id=st.sampled_from(SESSIONS[1:]), terms=st.sampled_from((None, LARGER, LARGER)))
    def session_changes(self, session_id: str, terms: SessionTerms | None) -> None:
        """It is allowed more, or deleted: then what waits is canceled, what runs runs on."""
        table = self.real.sessions
        if terms is not None:
            table.open(session_id, terms, self.now, 1).stored = True
            return
        table.expire(self.now)
        session = table.known(session_id, self.now)
        if session is None or any(admitted.session is session for admitted in self.model.held):
            return
        table.delete(session)
        for task_id in sorted(session.tasks):
            if self.real.cancel(task_id):
                self._end_unused(task_id)

    # -- what must hold at all times ---------------------------------------

    @invariant()
    def the_model_agrees(self) -> None:
        assert_lines_agree(self.real, self.model, self.now)
        assert_capacity_is_kept(self.model, self.now)
        assert_budgets_agree(self.real, self.model)
        assert_forecasts_agree(self.real, self.model, self.now, self.candidates)
        assert all(self.real.position(task_id, self.now) is None for task_id in self.gone)

    # -- inside ------------------------------------------------------------

    @property
    def candidates(self) -> dict[str, list[Candidate]]:
        """As the scheduler is told of them."""
        found = dict[str, list[Candidate]]()
        for name, replica in self.replicas.items():
            found.setdefault(name.partition("/")[0], []).append(replica)
        return found

    def _admit(self, asked: Ask) -> bool:
        """Admit what passes every check; a refusal is the right one and changes nothing."""
        candidates = self.candidates.get(asked.pool_id, ())
        refusal = refusal_of(self.real, self.model, asked, self.now, candidates)
        if refusal is None:
            self.model.held.append(self.real.admit(asked, self.now, 1, candidates))
            self.arrivals[asked.task_id] = self.now, self.number
            return True
        before = state_of(self.real, self.model, self.now)
        with pytest.raises(refusal):
            self.real.admit(asked, self.now, 1, candidates)
        assert state_of(self.real, self.model, self.now) == before
        return False

    def _decide(self) -> None:
        expired = self.model.expired(self.now)
        decisions = self.real.decide(self.now, self.candidates)
        assert {d.task_id for d in decisions if isinstance(d, Expire)} == expired
        for task_id in expired:
            self._end_unused(task_id)
        for decision in decisions[len(expired) :]:
            assert isinstance(decision, Start)
            self._check_start(decision)
        for pool_id in POOLS:
            line = self.model.queued(pool_id, self.now)
            assert not line or self._best(line[0]) is None

    def _commit(self, at: int) -> None:
        """LO-ORC-121: the oldest batch tasks go, if any must, and nothing else."""
        admitted = self.model.held.pop(at)
        if admitted.session is not None:
            admitted.session.stored = True
        accepted_at, sequence = self.arrivals[admitted.ask.task_id]
        task = committed(admitted, sequence, accepted_at)
        self.model.tasks[task.task_id] = PlainTask.of(task, came_back=False)
        expected = self.model.dropped(task.pool_id, self.now)
        assert self.real.enqueue(task, admitted) == [Drop(task_id) for task_id in expected]
        for task_id in expected:
            self._end_unused(task_id)

    def _end(self, task: PlainTask, move: Move, tokens_out: int) -> None:
        self._note_progress(task, tokens_out)
        del self.model.tasks[task.task_id]
        self.gone.append(task.task_id)
        if task.session is not None:
            assert task.replica_id is not None
            used = Amounts(20 + tokens_out, 700, PRICE.of(20 + tokens_out))
            place = CachePlace(task.replica_id, self.number % 3, 1)
            self.real.sessions.used_slot(place, task.session, 0.5)
            self.real.sessions.settle(task.session, task.task_id, task.hold, used, self.now)
        self.real.finish(task.task_id, move, tokens_out, self.now)

    def _end_unused(self, task_id: str) -> None:
        """LO-ORC-124: nothing is charged."""
        task = self.model.tasks.pop(task_id)
        self.gone.append(task_id)
        if task.session is not None:
            settle = self.real.sessions.settle
            assert settle(task.session, task_id, task.hold, NOTHING, self.now) == NOTHING

    def _check_start(self, start: Start) -> None:
        """It is the head of its line, in time, and on the best replica with a free slot."""
        task = self.model.tasks[start.task_id]
        assert task is self.model.queued(task.pool_id, self.now)[0]
        assert task.deadline is None or task.deadline > self.now
        best = self._best(task)
        assert best is not None
        assert start.replica_id == best.replica_id
        assert self.model.active()[best.replica_id] < best.slots_total
        task.attempt += 1
        assert start.attempt == task.attempt
        task.state, task.replica_id = TaskState.RUNNING, start.replica_id

    def _best(self, task: PlainTask) -> Candidate | None:
        place = None if task.session is None else task.session.place
        preferred = None if place is None else place.replica_id
        return choose(self.candidates.get(task.pool_id, ()), self.model.active(), preferred)

    def _note_progress(self, task: PlainTask, tokens_out: int) -> None:
        progress = self.real._tasks[task.task_id].progress
        assert progress is not None
        progress.started_at, progress.prompt_tokens = progress.began_at, 20
        if tokens_out:
            progress.first_token_at = progress.began_at + 0.125
            progress.last_token_at = progress.first_token_at + tokens_out / 64
            progress.tokens_out = tokens_out


class DeepSchedulerMachine(SchedulerMachine):
    """The same for longer, from another seed."""


SchedulerMachine.TestCase.settings = machine_settings(examples=50, steps=50)
DeepSchedulerMachine.TestCase.settings = machine_settings(examples=200, steps=80)
test_a_scheduler_agrees_with_its_model = SchedulerMachine.TestCase
test_a_scheduler_agrees_with_its_model_for_long = pytest.mark.slow(DeepSchedulerMachine.TestCase)
