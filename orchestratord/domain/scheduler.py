"""Who runs next, and where: the one owner of the queues and the sessions.

Every method is synchronous and changes state at once, so that between two
awaits of the caller the scheduler is always whole.  A task is admitted in two
steps, because a 202 promises that it is on disk: `admit` makes every check and
then holds its place, its turn and its budgets while the commit is on its way;
`withdraw` gives them back, and `enqueue` puts the committed task in line.
Until then no decision can see it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

from contracts.tasks import Priority, TaskState
from orchestratord.domain.budgets import NOTHING, Amounts, Ledger, Price
from orchestratord.domain.decisions import (
    Admitted,
    Ask,
    Candidates,
    Drop,
    Expire,
    QueueRules,
    Start,
    Strand,
)
from orchestratord.domain.placement import Candidate, choose
from orchestratord.domain.pool_state import PoolState
from orchestratord.domain.prediction import AttemptProgress, Forecast, Work
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.domain.sessions import Session, SessionTable
from orchestratord.domain.task_state import Move, after
from orchestratord.errors import DeadlineUnmet, QueueFull

_STALE_DEADLINES = 64
EXPIRED_AT_ONCE = 64
"""Every end is a commit, a last event and the end of streams: hundreds at once hold others up."""
TIME_STEP_MS = 1_000
"""Held of a time budget for a task nothing can be predicted of."""


class Scheduler:
    """The queues, the running set, the slots in use, and the sessions."""

    def __init__(
        self, pool_ids: Iterable[str], rules: QueueRules, sessions: SessionTable, price: Price
    ) -> None:
        self.sessions = sessions
        self._rules = rules
        self.price = price
        self._pools = {pool_id: PoolState(pool_id, rules.batch_max_wait_s) for pool_id in pool_ids}
        self._tasks: dict[str, ScheduledTask] = {}
        self._active: Counter[str] = Counter()
        self._deadlines: list[tuple[float, str]] = []
        self._gone: set[str] = set()
        """Pools that are no longer configured."""

    # -- admission ---------------------------------------------------------

    def admit(
        self, ask: Ask, now: float, unix_ms: int, candidates: Sequence[Candidate]
    ) -> Admitted:
        """Check everything, then hold everything.

        Raises:
            DeadlineUnmet: even on a good day it would be late.
            SessionsFull, SessionTurnsExhausted, BudgetExhausted: its session may not.
            QueueFull: there is no room, and none can be made.
        """
        pool = self._pools[ask.pool_id]
        found = None if ask.session_id is None else self.sessions.find(ask.session_id, now)
        work = Work.of(ask.prompt_tokens, ask.max_tokens, _expected(ask, found))
        forecast = pool.forecast_new(work, ask.priority, now, candidates)
        self._refuse_late(ask, forecast)
        hold = NOTHING
        if ask.session_id is not None:
            hold = self._hold(ask, self.sessions.ledger(ask.session_id, now), forecast)
            self.sessions.check(ask.session_id, hold, now)
        self._refuse_full(pool, now, candidates)
        pool.reserved += 1
        session = None
        if ask.session_id is not None:
            session = self.sessions.admit(ask.session_id, ask.task_id, hold, now, unix_ms)
        return Admitted(ask, work, hold, session, forecast)

    def withdraw(self, admitted: Admitted) -> None:
        """Give back what `admit` held: the task could not be committed."""
        self._pools[admitted.ask.pool_id].reserved -= 1
        if admitted.session is not None:
            self.sessions.withdraw(admitted.session, admitted.ask.task_id, admitted.hold)

    def enqueue(self, task: ScheduledTask, admitted: Admitted | None = None) -> list[Drop]:
        """Put a committed task in line; from now on a decision may pick it.

        With `admitted` its held place becomes the real one.  Returns the batch
        tasks that had to go for it, already out of line.
        """
        pool = self._pools[task.pool_id]
        self._tasks[task.task_id] = task
        self._join_queue(task)
        if admitted is None:
            return []
        pool.reserved -= 1
        return list(self._make_room(pool)) if self._rules.policy == "drop-lru" else []

    def backoff_ms(self, pool_id: str, now: float, candidates: Sequence[Candidate]) -> int | None:
        """When a task would find room; 0 where there is some, None where that is not known."""
        pool = self._pools[pool_id]
        return pool.room_in_ms(now, candidates) if self._is_full(pool) else 0

    # -- decisions ---------------------------------------------------------

    def configure(self, pool_ids: Iterable[str], rules: QueueRules) -> None:
        """Take another set of pools and other rules; what runs runs on.

        What waits for a pool that is gone is stranded by the next decisions.  Its
        rates are kept: it may come back.
        """
        wanted = set(pool_ids)
        self._rules = rules
        for pool_id in wanted - self._pools.keys():
            self._pools[pool_id] = PoolState(pool_id, rules.batch_max_wait_s)
        for pool in self._pools.values():
            pool.queue.batch_max_wait_s = rules.batch_max_wait_s
        self._gone = self._pools.keys() - wanted

    def decide(self, now: float, candidates: Candidates) -> list[Start | Expire | Strand]:
        """Everything that should happen now, already applied to this state.

        `candidates` are the replicas of each pool.  Expired and stranded tasks come
        first, and no more than `EXPIRED_AT_ONCE` of each: the others are for the next call.
        """
        decisions: list[Start | Expire | Strand] = [*self._expire(now), *self._strand(now)]
        for pool in self._pools.values():
            if pool.pool_id in self._gone:
                continue
            replicas = candidates.get(pool.pool_id, ())
            while (task_id := pool.queue.head(now)) is not None:
                task = self._tasks[task_id]
                chosen = choose(replicas, self._active, task.preferred_replica)
                if chosen is None:
                    break
                decisions.append(self._start(pool, task, chosen.replica_id, now))
        return decisions

    def cancel(self, task_id: str) -> bool:
        """Take a queued task out for good; False when it is running or unknown."""
        task = self._tasks.get(task_id)
        if task is None or task.state is not TaskState.QUEUED:
            return False
        self._leave_queue(task, Move.CANCEL)
        return True

    def finish(self, task_id: str, move: Move, tokens_out: int, now: float) -> None:
        """A running task has ended; its slot is free, and its figures are learned from."""
        task = self._tasks.pop(task_id)
        task.state = after(task.state, move)
        if move is Move.SUCCEED:
            self._learn(task, tokens_out, now)
        self._free(task)

    def rerun(self, task_id: str) -> None:
        """A running task goes back in line, ahead of all that came after it."""
        task = self._tasks[task_id]
        task.state = after(task.state, Move.RERUN)
        self._free(task)
        self._join_queue(task)

    # -- questions ---------------------------------------------------------

    def position(self, task_id: str, now: float) -> int | None:
        """Tasks ahead of it, 0 = next; None once it has left the queue."""
        task = self._queued(task_id)
        if task is None:
            return None
        return self._pools[task.pool_id].queue.position(task_id, task.priority, now)

    def forecast(
        self, task_id: str, now: float, candidates: Sequence[Candidate]
    ) -> Forecast | None:
        """Of a task in line; None once it has left the queue."""
        task = self._queued(task_id)
        return None if task is None else self._pools[task.pool_id].forecast(task, now, candidates)

    def on_time(
        self, task: ScheduledTask, now: float, candidates: Sequence[Candidate]
    ) -> float | None:
        """The chance to meet its deadline: 1 without one.

        None until a rate is known, and of a task that has left and whose end is
        being written.
        """
        if task.deadline is None:
            return 1.0
        pool = self._pools[task.pool_id]
        left = None
        if task.state is TaskState.RUNNING:
            left = pool.remaining_ms(task, now)
        elif task.state is TaskState.QUEUED:
            left = pool.forecast(task, now, candidates).end_ms
        if left is None:
            return None
        return pool.rates.ratios.chance(left, (task.deadline - now) * 1000)

    def depth(self, pool_id: str, priority: Priority) -> int:
        """Tasks of one class waiting in a pool's queue."""
        return self._pools[pool_id].queue.depth(priority)

    def waiting(self, pool_id: str) -> int:
        """Tasks of both classes waiting in a pool's queue."""
        return len(self._pools[pool_id].queue)

    def running(self, pool_id: str) -> int:
        """Tasks of a pool that hold a slot."""
        return len(self._pools[pool_id].running)

    def active(self, replica_id: str) -> int:
        """Slots of a replica that hold a task."""
        return self._active[replica_id]

    # -- inside ------------------------------------------------------------

    def _queued(self, task_id: str) -> ScheduledTask | None:
        task = self._tasks.get(task_id)
        return task if task is not None and task.state is TaskState.QUEUED else None

    def _refuse_late(self, ask: Ask, forecast: Forecast) -> None:
        """Refuse what none of the known errors of prediction could still make punctual."""
        if ask.deadline_ms is None or forecast.end_ms is None:
            return
        ratios = self._pools[ask.pool_id].rates.ratios
        if ratios.chance(forecast.end_ms, ask.deadline_ms) == 0:
            raise DeadlineUnmet(ask.pool_id, ask.deadline_ms, round(forecast.end_ms))

    def _hold(self, ask: Ask, ledger: Ledger, forecast: Forecast) -> Amounts:
        """The most it can use of tokens and cost, and what it is expected to use of time.

        Time that turns out too short is extended while the task runs, so that a
        prediction refuses nobody: it holds no more than what is left.  Where nothing
        is known it begins with a small step.
        """
        known = forecast.run_ms is not None
        time_ms = max(1, round(forecast.run_ms or 0)) if known else TIME_STEP_MS
        remaining = ledger.remaining("time_ms")
        if remaining is not None:
            time_ms = min(time_ms, max(1, remaining))
        return Amounts(ask.hold_tokens, time_ms, self.price.of(ask.hold_tokens))

    def _refuse_full(self, pool: PoolState, now: float, candidates: Sequence[Candidate]) -> None:
        if self._is_full(pool):
            room = pool.room_in_ms(now, candidates)
            raise QueueFull(pool.pool_id, self._rules.capacity, self._rules.policy, room)

    def _is_full(self, pool: PoolState) -> bool:
        """Whether there is no room; a batch task that can be dropped is room.

        Tasks that may not be dropped, and places held for what is on its way,
        together never pass the capacity; so by the time a held place becomes a
        real one there is a batch task to drop, whatever started or was canceled
        in between.
        """
        held = len(pool.queue) + pool.reserved
        if self._rules.policy == "drop-lru":
            held -= pool.queue.depth(Priority.BATCH)
        return held >= self._rules.capacity

    def _make_room(self, pool: PoolState) -> Iterable[Drop]:
        while len(pool.queue) > self._rules.capacity:
            oldest = pool.queue.oldest_batch()
            if oldest is None:
                return
            self._leave_queue(self._tasks[oldest], Move.FAIL)
            yield Drop(oldest)

    def _start(self, pool: PoolState, task: ScheduledTask, replica_id: str, now: float) -> Start:
        pool.queue.remove(task.task_id, task.priority)
        task.state = after(task.state, Move.START)
        task.attempt += 1
        task.replica_id = replica_id
        task.progress = AttemptProgress(now)
        pool.running[task.task_id] = task
        self._active[replica_id] += 1
        error = None
        if task.attempt == 1 and task.predicted_start_at is not None:
            error = (now - task.predicted_start_at) * 1000
        return Start(task.task_id, replica_id, task.attempt, error)

    def _learn(self, task: ScheduledTask, tokens_out: int, now: float) -> None:
        rates, progress = self._pools[task.pool_id].rates, task.progress
        assert progress is not None
        rates.learn(progress, tokens_out, task.max_tokens)
        served_at = progress.answered_at or progress.last_token_at
        if progress.started_at is not None and served_at is not None:
            held = now - progress.began_at
            served = served_at - progress.started_at
            rates.overhead_ms.add(max(0.0, held - served) * 1000)
        if task.session is not None and task.max_tokens:
            task.session.output_share.add(min(1.0, tokens_out / task.max_tokens))
        if task.predicted_ms:
            rates.ratios.add((now - task.accepted_at) * 1000 / task.predicted_ms)

    def _expire(self, now: float) -> Iterable[Expire]:
        expired = 0
        while self._deadlines and self._deadlines[0][0] <= now and expired < EXPIRED_AT_ONCE:
            _, task_id = heapq.heappop(self._deadlines)
            task = self._queued(task_id)
            if task is not None and task.deadline is not None and task.deadline <= now:
                self._leave_queue(task, Move.FAIL)
                expired += 1
                yield Expire(task_id)

    def _strand(self, now: float) -> Iterable[Strand]:
        stranded = 0
        for pool_id in self._gone:
            queue = self._pools[pool_id].queue
            while stranded < EXPIRED_AT_ONCE and (task_id := queue.head(now)) is not None:
                self._leave_queue(self._tasks[task_id], Move.FAIL)
                stranded += 1
                yield Strand(task_id)

    def _join_queue(self, task: ScheduledTask) -> None:
        """Put it in line, and on the heap of deadlines.

        Entries of tasks that have left stay on the heap until they outnumber
        the tasks there are; then it is made anew.
        """
        self._pools[task.pool_id].queue.push(task.entry, task.priority)
        if task.deadline is None:
            return
        heapq.heappush(self._deadlines, (task.deadline, task.task_id))
        if len(self._deadlines) > 2 * len(self._tasks) + _STALE_DEADLINES:
            self._deadlines = sorted(
                (task.deadline, task.task_id)
                for task in self._tasks.values()
                if task.deadline is not None
            )

    def _leave_queue(self, task: ScheduledTask, move: Move) -> None:
        task.state = after(task.state, move)
        self._pools[task.pool_id].queue.remove(task.task_id, task.priority)
        del self._tasks[task.task_id]

    def _free(self, task: ScheduledTask) -> None:
        assert task.replica_id is not None
        del self._pools[task.pool_id].running[task.task_id]
        self._active[task.replica_id] -= 1
        if not self._active[task.replica_id]:
            del self._active[task.replica_id]
        task.replica_id = None


def _expected(ask: Ask, session: Session | None) -> int | None:
    """The client's own guess, else what its session's earlier tasks suggest."""
    if ask.expected_tokens is not None:
        return ask.expected_tokens
    share = None if session is None else session.output_share.value
    return None if share is None else max(1, round(ask.max_tokens * share))
