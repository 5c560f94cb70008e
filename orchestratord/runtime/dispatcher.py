"""The one caller of the scheduler: puts tasks in line, runs them, ends them.

`take_up` puts a committed task in line.  `pump` asks the scheduler what should
happen now and starts it; it is called after everything that could change the
answer.  `_run` carries one attempt to its ending, and `_finish` writes the
ending down before anyone can read it.

State changes here are synchronous and sit between awaits; there are no locks.
The places where two callers could meet say so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import anyio
import structlog
from anyio.abc import TaskGroup

from contracts.errors import ErrorCode
from contracts.pools import PoolChange, ReplicaView, Snapshot
from orchestratord.domain.decisions import Admitted, Candidates, Drop, Expire, Start, Strand
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.domain.scheduler import EXPIRED_AT_ONCE, Scheduler
from orchestratord.domain.sessions import CachePlace
from orchestratord.errors import StorageBusy, StorageFull, TaskUnknown
from orchestratord.runtime.active_task import NEVER, ActiveTask, Recorded
from orchestratord.runtime.arrivals import Arrivals
from orchestratord.runtime.attempt import Attempt
from orchestratord.runtime.attempt_tools import AttemptTools
from orchestratord.runtime.draining import cut_instead
from orchestratord.runtime.ending import Canceled, Ending, Failed, Rerun
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.outcome import MOVES, Final, Moment, outcome_of, terminal_event
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.runtime.results import with_result
from orchestratord.runtime.settling import budgets_of, settlement_of
from orchestratord.runtime.task_metrics import TaskMetrics
from orchestratord.stores.tasks import NewTask

log = structlog.get_logger()

RESETS_MAX = 3
"""Replicas one task may bring down before it is given up."""
STORAGE_RETRY_S, STORAGE_RETRY_MAX_S = 0.2, 2.0
CANCELED_AT_ONCE = 256
EXPIRE_AGAIN_S = 0.02
CANCEL_DEADLINE_S = 10.0


class Dispatcher:
    """Owner of every task between its commit and its end; `group` runs the attempts."""

    def __init__(
        self,
        scheduler: Scheduler,
        pools: PoolsView,
        shelf: LogShelf,
        tools: AttemptTools,
        arrivals: Arrivals,
        metrics: TaskMetrics,
        group: TaskGroup,
    ) -> None:
        self.draining = False
        self._scheduler = scheduler
        self._pools = pools
        self._shelf = shelf
        self._tools = tools
        self._arrivals = arrivals
        self._metrics = metrics
        self._group = group
        self._active: dict[str, ActiveTask] = {}
        self._attempts: dict[str, tuple[ActiveTask, Attempt]] = {}
        self._doubted: set[Attempt] = set()
        """Attempts whose slot a restarted pool_managerd may not know of yet."""

    @property
    def waiting(self) -> list[ActiveTask]:
        """Every task that has no attempt under way."""
        return [task for task in self._active.values() if task.attempt is None]

    @property
    def attempts(self) -> list[tuple[ActiveTask, Attempt]]:
        """Every attempt under way, with its task."""
        return list(self._attempts.values())

    def find(self, task_id: str) -> ActiveTask | None:
        """A task that has not ended."""
        return self._active.get(task_id)

    async def find_arrived(self, task_id: str) -> ActiveTask | None:
        """The same, also where its place in line is just being given out."""
        if task_id not in self._active:
            await self._arrivals.settled(task_id)
        return self._active.get(task_id)

    def see(self, snapshot: Snapshot | None) -> None:
        """What pool_managerd says now; None: it is away."""
        before = self._pools.instance_id
        self._pools.update(snapshot, self._tools.clock.now(), self._tools.clock.unix_ms())
        if snapshot is not None:
            replicas = [replica for pool in snapshot.pools for replica in pool.replicas]
            self._scheduler.sessions.notice_launches({r.replica_id: r.pid for r in replicas})
            self._scheduler.sessions.notice_evictions(
                {r.replica_id: r.kv_evictions for r in replicas}
            )
            if before not in (None, snapshot.instance_id):
                self._doubt_leases()
        self.pump()

    def note(self, change: PoolChange) -> None:
        """What pool_managerd answered to a drain, a reload or a resume; it holds on return."""
        self._pools.note(change, self._tools.clock.now(), self._tools.clock.unix_ms())
        self.pump()

    def respecify(self, specs: Iterable[PoolSpec]) -> None:
        """The configuration was read again: what waits is run by the new one.

        Tasks of a pool that is gone end at the next pump; running ones run on.
        """
        by_id = {spec.pool_id: spec for spec in specs}
        for task in self.waiting:
            task.spec = by_id.get(task.spec.pool_id, task.spec)
        self.pump()

    def _doubt_leases(self) -> None:
        """pool_managerd was started again: it is told at once which slots are in use.

        Until it has answered for a slot nothing new is placed on that replica, or
        it would give the slot of a stream that runs to another task.
        """
        for _, attempt in self.attempts:
            attempt.doubt_lease()
            self._doubted.add(attempt)
            self._group.start_soon(self._confirm, attempt)

    async def _confirm(self, attempt: Attempt) -> None:
        await attempt.renew()
        self.pump()

    def _placeable(self, now: float) -> Candidates:
        candidates = self._pools.candidates(now)
        if not self._doubted:
            return candidates
        self._doubted = {a for a in self._doubted if a.lease_in_doubt and not a.over.is_set()}
        closed = {attempt.replica.replica_id for attempt in self._doubted}
        return {
            pool_id: [c for c in found if c.replica_id not in closed]
            for pool_id, found in candidates.items()
        }

    # -- lining up ---------------------------------------------------------

    def take_up(
        self,
        new: NewTask,
        spec: PoolSpec,
        scheduled: ScheduledTask,
        admitted: Admitted | None = None,
        first_event_id: int = 1,
        resets: int = 0,
    ) -> ActiveTask:
        """Put a committed task in line; `first_event_id` goes on from an earlier life."""
        log = self._shelf.open(new.task_id, first_event_id)
        task = self._active[new.task_id] = ActiveTask(new, scheduled, spec, log, resets=resets)
        self._drop(self._scheduler.enqueue(scheduled, admitted))
        self._show_depth(spec)
        return task

    def _drop(self, dropped: Iterable[Drop]) -> None:
        for drop in dropped:
            victim = self._active[drop.task_id]
            self._metrics.backpressure(victim.spec.engine, "drop-lru")
            why = "dropped from a full queue to make room for newer work"
            ending = Failed(ErrorCode.QUEUE_FULL_DROP_LRU, why)
            self._end_soon(victim, ending)

    # -- canceling ---------------------------------------------------------

    async def cancel(self, task_id: str, ending: Canceled | None = None) -> None:
        """End a task; returns once its terminal event is readable.

        Raises:
            TaskUnknown: there is none of this id.
            StorageBusy: its end cannot be written now; it is canceled, and
                asking again says when that is on disk.
        """
        task = await self.find_arrived(task_id)
        if task is None:
            if await self._tools.store.get(task_id) is None:
                raise TaskUnknown(task_id)
            return
        ending = ending or Canceled()
        task.cancel_requested = task.cancel_requested or ending
        if self._scheduler.cancel(task_id):
            self._end_soon(task, ending)
        elif task.attempt is not None:
            task.attempt.abort(ending)
        with anyio.move_on_after(CANCEL_DEADLINE_S):
            await task.ended.wait()
        if not task.ended.is_set():
            raise StorageBusy

    async def cancel_waiting(self, task_ids: Iterable[str], ending: Canceled) -> None:
        """End those of the tasks that have no attempt, a slice at a time.

        Raises:
            StorageBusy: the end of some cannot be written now.
        """
        waiting = [t for t in map(self._active.get, task_ids) if t is not None and not t.attempt]
        for begin in range(0, len(waiting), CANCELED_AT_ONCE):
            part = waiting[begin : begin + CANCELED_AT_ONCE]
            for task in part:
                task.cancel_requested = task.cancel_requested or ending
                if self._scheduler.cancel(task.task_id):
                    self._end_soon(task, ending)
            with anyio.move_on_after(CANCEL_DEADLINE_S):
                for task in part:
                    if task.attempt is None:
                        await task.ended.wait()
            if any(not task.ended.is_set() and task.attempt is None for task in part):
                raise StorageBusy

    # -- running -----------------------------------------------------------

    def pump(self) -> None:
        """Start and expire whatever is due; call it when anything has changed."""
        if self.draining:
            return
        now = self._tools.clock.now()
        expired = 0
        for decision in self._scheduler.decide(now, self._placeable(now)):
            task = self._active[decision.task_id]
            match decision:
                case Start():
                    self._metrics.predicted(decision.prediction_error_ms)
                    attempt = self._new_attempt(task, decision)
                    self._group.start_soon(self._run, task, attempt)
                case Expire():
                    expired += 1
                    self._end_soon(task, deadline_unmet(task))
                case Strand():
                    expired += 1
                    self._end_soon(task, pool_gone(task))
            self._show_depth(task.spec)
        if expired >= EXPIRED_AT_ONCE:
            self._group.start_soon(self._pump_again)

    async def _pump_again(self) -> None:
        await anyio.sleep(EXPIRE_AGAIN_S)
        self.pump()

    def _new_attempt(self, task: ActiveTask, start: Start) -> Attempt:
        replica, progress = self._pools.replica(start.replica_id), task.scheduled.progress
        assert replica is not None
        assert progress is not None
        busy = {a.slot for _, a in self.attempts if a.replica.replica_id == start.replica_id}
        slot = self._scheduler.sessions.preferred_slot(
            start.replica_id,
            # A strict task uses no cache, and leaves that of its session alone if it can.
            None if task.new.request.determinism == "strict" else task.scheduled.session,
            replica.slots_total,
            {slot for slot in busy if slot is not None},
        )
        task.attempt = Attempt(
            self._tools,
            task.new,
            task.log,
            task.spec,
            replica,
            start.attempt,
            progress,
            slot,
            partial(self._took_slot, task, replica),
        )
        self._attempts[task.task_id] = (task, task.attempt)
        return task.attempt

    def _took_slot(self, task: ActiveTask, replica: ReplicaView, slot: int) -> None:
        """The cache that another session had there is as good as gone."""
        place = CachePlace(replica.replica_id, slot, replica.pid)
        keeper = task.scheduled.session if task.scheduled.generates else None
        displaced = self._scheduler.sessions.displace(place, keeper)
        if displaced is not None:
            task.displaced.add(displaced)

    async def _run(self, task: ActiveTask, attempt: Attempt) -> None:
        """One attempt, to its ending; a bug in it fails this task and no other.

        Where even that failure cannot be written down, the error ends the
        process, which is safe: starting is recovering.
        """
        self._metrics.started(task, attempt)
        try:
            await self._conclude(task, attempt, await attempt.run())
        except Exception:
            log.exception("attempt_failed", task_id=task.task_id)
            why = "an internal error; see the log of orchestratord"
            await self._conclude(task, attempt, Failed(ErrorCode.INTERNAL, why))
        attempt.over.set()
        self.pump()

    async def _conclude(self, task: ActiveTask, attempt: Attempt, ending: Ending) -> None:
        ending = cut_instead(self._pools, task.spec, attempt, ending, self._tools.clock.now())
        if isinstance(ending, Rerun):
            ending = _given_up(task, ending)
        if isinstance(ending, Rerun):
            await self._rerun(task, attempt, ending)
        else:
            stalled = isinstance(ending, Failed) and ending.code is ErrorCode.DECODE_TIMEOUT
            if stalled:
                self._pools.distrust(attempt.replica.replica_id, self._tools.clock.now())
            recorded = await self._finish(task, ending)
            await attempt.release(stalled=stalled)
            move, tokens = MOVES[type(recorded.ending)], recorded.outcome.tokens_out
            self._scheduler.finish(task.task_id, move, tokens, self._tools.clock.now())
        self._attempts.pop(task.task_id, None)

    async def _rerun(self, task: ActiveTask, attempt: Attempt, rerun: Rerun) -> None:
        """Put a task back in line that no reader has seen a token of."""
        task_id = task.task_id
        log.warning("task_rerun", task_id=task_id, attempt=attempt.number, reason=rerun.why)
        self._pools.distrust(attempt.replica.replica_id, self._tools.clock.now())
        await attempt.release()
        if attempt.started:
            task.next_metrics_at = NEVER
            last_id = task.log.last_id
            await self._persist(
                lambda: self._tools.store.requeue(task_id, attempt.number, last_id, task.resets)
            )
            task.log.reserved_id = last_id
        task.attempt, task.next_metrics_at = None, 0.0
        self._attempts.pop(task_id, None)
        self._scheduler.rerun(task_id)
        self._show_depth(task.spec)
        # A cancel that came while the row was being written found an attempt
        # that was over and no queued task to take out: it is honoured here.
        if task.cancel_requested and self._scheduler.cancel(task_id):
            await self._finish(task, task.cancel_requested)

    def _end_soon(self, task: ActiveTask, ending: Final) -> None:
        """End a task that has left the line: it is told no figures of its place any more."""
        task.next_metrics_at = NEVER
        self._group.start_soon(self._finish, task, ending)

    async def _finish(self, task: ActiveTask, ending: Final) -> Recorded:
        """Write the end down, then let readers see it, in this order.

        Returns the end that holds: where a defect came between the two, the one
        that is on disk already, whatever this one is.
        """
        if task.recorded is None:
            task.recorded = await self._record(task, ending)
            self._tools.failpoints.hit("task.finished")
        if not task.ended.is_set():
            self._announce(task, task.recorded)
        return task.recorded

    async def _record(self, task: ActiveTask, ending: Final) -> Recorded:
        """Commit the outcome and what the session is charged.

        Budgets are settled in memory first: a task admitted meanwhile on what
        was given back is committed after this one, since writes keep their order.
        """
        clock, scheduled = self._tools.clock, task.scheduled
        at = Moment(clock.now(), clock.unix_ms())
        # The terminal event's id is taken before the first await: no figures after this.
        task.next_metrics_at = NEVER
        event_id = task.log.last_id + 1
        outcome = outcome_of(ending, task.attempt, scheduled.accepted_at, event_id, at)
        if task.settlement is None:
            task.settlement = settlement_of(
                self._scheduler, scheduled, task.attempt, task.displaced, outcome, at
            )
        settlement = task.settlement
        event = terminal_event(outcome, budgets_of(scheduled.session))
        self._tools.failpoints.hit("task.finish")
        await self._persist(lambda: self._tools.store.finish(task.task_id, outcome, settlement))
        return Recorded(ending, outcome, event)

    def _announce(self, task: ActiveTask, recorded: Recorded) -> None:
        """Let readers see the end, and whoever waits for it go on."""
        outcome = recorded.outcome
        if outcome.result is not None:
            task.log.append_encoded("end", with_result(recorded.event, outcome.result))
        else:
            task.log.append("error" if outcome.error_code else "end", recorded.event)
        del self._active[task.task_id]
        self._shelf.finished(task.task_id, self._tools.clock.now())
        self._metrics.finished(task, outcome, recorded.ending)
        self._show_depth(task.spec)
        task.ended.set()

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Repeat a write that must succeed until the database takes it."""
        pause, told = STORAGE_RETRY_S, False
        while True:
            try:
                return await write()
            except (StorageBusy, StorageFull) as error:
                if not told:
                    log.warning("write_retried", reason=error.code.value)
                told = True
                await anyio.sleep(pause)
                pause = min(2 * pause, STORAGE_RETRY_MAX_S)

    def _show_depth(self, spec: PoolSpec) -> None:
        version = self._pools.engine_version(spec.pool_id)
        self._metrics.queue_depth(spec, version, self._scheduler)


def deadline_unmet(task: ActiveTask) -> Failed:
    """The ending of a task whose deadline has passed."""
    return Failed(
        ErrorCode.DEADLINE_UNMET, f"not done within deadline_ms {task.new.request.deadline_ms}"
    )


def pool_gone(task: ActiveTask) -> Failed:
    """The ending of a task that waits for a pool which was taken out of the configuration."""
    return Failed(ErrorCode.POOL_UNAVAILABLE, f"pool {task.spec.pool_id} is no longer configured")


def _given_up(task: ActiveTask, rerun: Rerun) -> Rerun | Failed:
    task.resets += rerun.reset
    if task.resets < RESETS_MAX:
        return rerun
    return Failed(ErrorCode.POISON, f"{rerun.why}; given up after {RESETS_MAX} replicas were lost")
