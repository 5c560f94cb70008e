"""The one caller of the scheduler: accepts tasks, runs them, ends them.

A request goes through `submit`: checks, a reserved place, the commit, the
place in line.  `pump` asks the scheduler what should happen now and starts it;
it is called after everything that could change the answer.  `_run` carries one
attempt to its ending, and `_finish` writes the ending down before anyone can
read it.

State changes here are synchronous and sit between awaits; there are no locks.
The places where two callers could meet say so.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import structlog
from anyio.abc import TaskGroup

from contracts.errors import ErrorCode, Refusal
from contracts.ids import new_uuid
from contracts.tasks import SEED_MAX, TaskRequest, TaskState
from orchestratord.domain.admission import PoolSpec, choose_pool, refuse_unserved
from orchestratord.domain.identity import body_digest
from orchestratord.domain.scheduler import Expire, ScheduledTask, Scheduler, Start
from orchestratord.errors import ShuttingDown, StorageBusy, StorageFull, TaskConflict, TaskUnknown
from orchestratord.runtime.active_task import ActiveTask
from orchestratord.runtime.attempt import Attempt, AttemptTools
from orchestratord.runtime.ending import Canceled, Ending, Failed, Rerun
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.outcome import MOVES, Final, Moment, outcome_of, terminal_event
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.runtime.task_metrics import TaskMetrics
from orchestratord.stores.tasks import NewTask

log = structlog.get_logger()

RESETS_MAX = 3
"""Replicas one task may bring down before it is given up."""
STORAGE_RETRY_S = 0.2
CANCEL_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a client is told of an accepted task."""

    task_id: str
    state: TaskState
    queue_position: int | None


class Dispatcher:
    """Owner of every task between acceptance and end; `group` runs its attempts."""

    def __init__(
        self,
        specs: Sequence[PoolSpec],
        scheduler: Scheduler,
        pools: PoolsView,
        shelf: LogShelf,
        tools: AttemptTools,
        metrics: TaskMetrics,
        group: TaskGroup,
        last_sequence: int,
    ) -> None:
        self.draining = False
        self._specs = specs
        self._scheduler = scheduler
        self._pools = pools
        self._shelf = shelf
        self._tools = tools
        self._metrics = metrics
        self._group = group
        self._active: dict[str, ActiveTask] = {}
        self._admitting: dict[str, anyio.Event] = {}
        self._sequence = last_sequence

    @property
    def waiting(self) -> list[ActiveTask]:
        """Every task that has no attempt under way."""
        return [task for task in self._active.values() if task.attempt is None]

    @property
    def attempts(self) -> list[tuple[ActiveTask, Attempt]]:
        """Every attempt under way, with its task."""
        return [(task, task.attempt) for task in self._active.values() if task.attempt]

    def position(self, task_id: str) -> int | None:
        """Tasks ahead of it, 0 = next; None once it has left the queue."""
        return self._scheduler.position(task_id)

    # -- accepting ---------------------------------------------------------

    async def submit(
        self, request: TaskRequest, correlation_id: str, task_id: str | None = None
    ) -> Accepted:
        """Accept a task, or find the one with its id; `task_id` is for one that brings none.

        Raises:
            Refusal: then nothing is reserved and nothing is written.
        """
        task_id = request.task_id or task_id or new_uuid()
        # Two POSTs with one new id: the second waits for the first's verdict
        # and then finds its task, so that one id never makes two.
        while (admitting := self._admitting.get(task_id)) is not None:
            await admitting.wait()
        self._admitting[task_id] = admitting = anyio.Event()
        try:
            digest = body_digest(request)
            known = None if request.task_id is None else await self._known(task_id, digest)
            return known or await self._admit(task_id, digest, request, correlation_id)
        except Refusal as refusal:
            self._metrics.rejected(request.engine, refusal.code)
            raise
        finally:
            del self._admitting[task_id]
            admitting.set()

    async def _known(self, task_id: str, digest: bytes) -> Accepted | None:
        row = await self._tools.store.get(task_id)
        if row is None:
            return None
        if row["body_sha256"] != digest:
            raise TaskConflict(task_id)
        return Accepted(task_id, TaskState(row["state"]), self.position(task_id))

    async def _admit(
        self, task_id: str, digest: bytes, request: TaskRequest, correlation_id: str
    ) -> Accepted:
        refuse_unserved(request)
        if self.draining:
            raise ShuttingDown
        spec = choose_pool(request, self._specs, self._pools.pools)
        self._scheduler.reserve(spec.pool_id)
        accepted_at = self._tools.clock.now()
        self._sequence += 1
        new = NewTask(
            task_id=task_id,
            sequence=self._sequence,
            body_sha256=digest,
            request=request,
            correlation_id=correlation_id,
            pool_id=spec.pool_id,
            seed=secrets.randbelow(SEED_MAX + 1) if request.seed is None else request.seed,
            created_ms=self._tools.clock.unix_ms(),
        )
        try:
            await self._tools.store.insert(new)
        finally:
            self._scheduler.release(spec.pool_id)
        task = self.take_up(new, spec, accepted_at)
        self._metrics.enqueued(task)
        accepted = Accepted(task_id, TaskState.QUEUED, self.position(task_id))
        self.pump()
        return accepted

    def take_up(
        self,
        new: NewTask,
        spec: PoolSpec,
        accepted_at: float,
        attempt: int = 0,
        first_event_id: int = 1,
    ) -> ActiveTask:
        """Put a committed task in line; `attempt` and `first_event_id` go on from earlier."""
        deadline = new.request.deadline_ms
        scheduled = ScheduledTask(
            task_id=new.task_id,
            pool_id=spec.pool_id,
            priority=new.request.priority,
            sequence=new.sequence,
            deadline=None if deadline is None else accepted_at + deadline / 1000,
            attempt=attempt,
        )
        log = self._shelf.open(new.task_id, first_event_id)
        task = self._active[new.task_id] = ActiveTask(new, scheduled, spec, log, accepted_at)
        self._scheduler.enqueue(scheduled)
        self._show_depth(spec)
        return task

    # -- canceling ---------------------------------------------------------

    async def cancel(self, task_id: str) -> None:
        """End a task; returns once its terminal event is readable.

        Raises:
            TaskUnknown: there is none of this id.
            StorageBusy: its end cannot be written now; it is canceled, and
                asking again says when that is on disk.
        """
        task = self._active.get(task_id)
        if task is None:
            if await self._tools.store.get(task_id) is None:
                raise TaskUnknown(task_id)
            return
        task.cancel_requested = True
        if self._scheduler.cancel(task_id):
            self._group.start_soon(self._finish, task, Canceled())
        elif task.attempt is not None:
            task.attempt.abort(Canceled())
        with anyio.move_on_after(CANCEL_DEADLINE_S):
            await task.ended.wait()
        if not task.ended.is_set():
            raise StorageBusy

    # -- running -----------------------------------------------------------

    def pump(self) -> None:
        """Start and expire whatever is due; call it when anything has changed."""
        if self.draining:
            return
        now = self._tools.clock.now()
        for decision in self._scheduler.decide(now, self._pools.candidates(now)):
            task = self._active[decision.task_id]
            match decision:
                case Start(replica_id=replica_id, attempt=number):
                    attempt = self._new_attempt(task, replica_id, number)
                    self._group.start_soon(self._run, task, attempt)
                case Expire():
                    self._group.start_soon(self._finish, task, deadline_unmet(task))
            self._show_depth(task.spec)

    def _new_attempt(self, task: ActiveTask, replica_id: str, number: int) -> Attempt:
        replica = self._pools.replica(replica_id)
        assert replica is not None
        task.attempt = Attempt(self._tools, task.new, task.log, task.spec, replica, number)
        return task.attempt

    async def _run(self, task: ActiveTask, attempt: Attempt) -> None:
        """One attempt, to its ending; a bug in it fails this task and no other.

        Where even that failure cannot be written down, the error ends the
        process, which is safe: starting is recovering.
        """
        self._metrics.started(task, attempt)
        try:
            await self._conclude(task, attempt, await attempt.run())
        except Exception:
            log.exception("attempt_failed", task_id=task.new.task_id)
            why = "an internal error; see the log of orchestratord"
            await self._conclude(task, attempt, Failed(ErrorCode.INTERNAL, why))
        attempt.over.set()
        self.pump()

    async def _conclude(self, task: ActiveTask, attempt: Attempt, ending: Ending) -> None:
        if isinstance(ending, Rerun):
            ending = _given_up(task, ending)
        if isinstance(ending, Rerun):
            await self._rerun(task, attempt, ending)
        else:
            await self._finish(task, ending)
            await attempt.release()
            self._scheduler.finish(task.new.task_id, MOVES[type(ending)])

    async def _rerun(self, task: ActiveTask, attempt: Attempt, rerun: Rerun) -> None:
        """Put a task back in line that no reader has seen a token of."""
        task_id = task.new.task_id
        log.warning("task_rerun", task_id=task_id, attempt=attempt.number, reason=rerun.why)
        self._pools.distrust(attempt.replica.replica_id, self._tools.clock.now())
        await attempt.release()
        if attempt.started:
            await self._persist(
                lambda: self._tools.store.requeue(task_id, attempt.number, task.log.last_id)
            )
        task.attempt = None
        self._scheduler.rerun(task_id)
        self._show_depth(task.spec)
        # A cancel that came while the row was being written found an attempt
        # that was over and no queued task to take out: it is honoured here.
        if task.cancel_requested and self._scheduler.cancel(task_id):
            await self._finish(task, Canceled())

    async def _finish(self, task: ActiveTask, ending: Final) -> None:
        """Write the end down, then let readers see it, in this order."""
        task_id = task.new.task_id
        at = Moment(self._tools.clock.now(), self._tools.clock.unix_ms())
        outcome = outcome_of(ending, task.attempt, task.accepted_at, task.log.last_id + 1, at)
        await self._persist(lambda: self._tools.store.finish(task_id, outcome))
        task.log.append("error" if outcome.error_code else "end", terminal_event(outcome))
        del self._active[task_id]
        self._shelf.finished(task_id, at.now)
        self._metrics.finished(task, outcome)
        self._show_depth(task.spec)
        task.ended.set()

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Repeat a write that must succeed until the database takes it."""
        while True:
            try:
                return await write()
            except (StorageBusy, StorageFull) as error:
                log.warning("write_retried", reason=error.code.value)
                await anyio.sleep(STORAGE_RETRY_S)

    def _show_depth(self, spec: PoolSpec) -> None:
        version = self._pools.engine_version(spec.pool_id)
        self._metrics.queue_depth(spec, version, self._scheduler)


def deadline_unmet(task: ActiveTask) -> Failed:
    """The ending of a task whose deadline has passed."""
    return Failed(
        ErrorCode.DEADLINE_UNMET, f"not done within deadline_ms {task.new.request.deadline_ms}"
    )


def _given_up(task: ActiveTask, rerun: Rerun) -> Rerun | Failed:
    task.resets += rerun.reset
    if task.resets < RESETS_MAX:
        return rerun
    return Failed(
        ErrorCode.WORKER_RESET, f"{rerun.why}; given up after {RESETS_MAX} replicas were lost"
    )
