"""From a request to an accepted task: checks, holds, the commit, the place in line.

The checks come in the order a client is promised: known id, model, state, pool,
context, deadline, session turns, budgets, queue capacity, commit.  Up to the
context they may wait, for the row of a known id or for a tokenizer; from the
deadline to the hold nothing is awaited, so that no other request comes between
a check and what it allows.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import Refusal
from contracts.ids import new_uuid
from contracts.model import MILLISECONDS_MAX
from contracts.service.failpoints import Failpoints
from contracts.sessions import Budgets
from contracts.tasks import SEED_MAX, Priority, TaskRequest, TaskState
from orchestratord.clock import Clock
from orchestratord.domain.abilities import output_bound, refuse_senseless, refuse_unable, told
from orchestratord.domain.admission import (
    admitting_pools,
    refuse_closed,
    refuse_too_long,
    refuse_unproven,
)
from orchestratord.domain.decisions import Admitted, Ask
from orchestratord.domain.identity import body_digest
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.prompt_size import PromptSize, estimate
from orchestratord.domain.sampling import Profiles, Sampling, profile_of, sampling_of
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.domain.scheduler import Scheduler
from orchestratord.errors import (
    ContextExceeded,
    PoolUnavailable,
    QueueFull,
    ShuttingDown,
    TaskConflict,
)
from orchestratord.runtime.arrivals import Arrivals
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.runtime.prompt_counter import PromptCounter
from orchestratord.runtime.settling import budgets_of
from orchestratord.runtime.task_metrics import TaskMetrics
from orchestratord.stores.sessions import SessionHold
from orchestratord.stores.tasks import NewTask, TaskStore

FALLBACK_BACKOFF_MS = 1_000
"""Told where the queue is full and nobody knows for how long."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a client is told of an accepted task."""

    task_id: str
    state: TaskState
    queue_position: int | None
    predicted_start_ms: int | None = None
    backoff_ms: int = 0
    budgets: Budgets | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request on its way in."""

    task_id: str
    body_sha256: bytes
    request: TaskRequest
    correlation_id: str


class Admissions:
    """The way in; `last_sequence` is the highest number an earlier life gave out."""

    def __init__(
        self,
        specs: Sequence[PoolSpec],
        scheduler: Scheduler,
        pools: PoolsView,
        counter: PromptCounter,
        store: TaskStore,
        dispatcher: Dispatcher,
        arrivals: Arrivals,
        metrics: TaskMetrics,
        clock: Clock,
        failpoints: Failpoints,
        last_sequence: int,
        profiles: Profiles,
    ) -> None:
        self._specs = specs
        self._scheduler = scheduler
        self._pools = pools
        self._counter = counter
        self._store = store
        self._dispatcher = dispatcher
        self._arrivals = arrivals
        self._metrics = metrics
        self._clock = clock
        self._failpoints = failpoints
        self._sequence = last_sequence
        self._profiles = profiles

    async def submit(
        self, request: TaskRequest, correlation_id: str, task_id: str | None = None
    ) -> Accepted:
        """Accept a task, or find the one with its id; `task_id` is for one that brings none.

        Raises:
            Refusal: then nothing is held and nothing is written.
        """
        task_id = request.task_id or task_id or new_uuid()
        arrival = Arrival(task_id, body_digest(request), request, correlation_id)
        try:
            async with self._arrivals.arriving(task_id):
                known = None if request.task_id is None else await self._known(arrival)
                return known or await self._admit(arrival)
        except Refusal as refusal:
            self._metrics.rejected(request.engine, refusal.code)
            raise

    async def _known(self, arrival: Arrival) -> Accepted | None:
        row = await self._store.get(arrival.task_id)
        if row is None:
            return None
        if row["body_sha256"] != arrival.body_sha256:
            raise TaskConflict(arrival.task_id)
        session_id = arrival.request.session_id
        now = self._clock.now()
        session = None if session_id is None else self._scheduler.sessions.find(session_id, now)
        return self._told(
            arrival.task_id, TaskState(row["state"]), row["pool_id"], budgets_of(session)
        )

    async def _admit(self, arrival: Arrival) -> Accepted:
        request = arrival.request
        refuse_senseless(request)
        sampling = sampling_of(request, self._profiles)
        spec, size = await self._place(arrival, sampling)
        if self._dispatcher.draining:
            raise ShuttingDown
        self._refuse_changed(request, sampling, spec)
        now, unix_ms = self._clock.now(), self._clock.unix_ms()
        candidates = self._pools.replicas(spec.pool_id)
        try:
            admitted = self._scheduler.admit(_ask(arrival, spec, size), now, unix_ms, candidates)
        except QueueFull:
            self._metrics.backpressure(spec.engine, "reject")
            raise
        new = self._new_task(arrival, spec, admitted, sampling, unix_ms)
        try:
            await self._store.insert(new, _session_hold(admitted, unix_ms))
        except BaseException:
            self._scheduler.withdraw(admitted)
            raise
        if admitted.session is not None:
            admitted.session.stored = True
        scheduled = _scheduled(new, admitted, now)
        self._metrics.enqueued(self._dispatcher.take_up(new, spec, scheduled, admitted))
        accepted = self._told(
            new.task_id, TaskState.QUEUED, spec.pool_id, budgets_of(admitted.session)
        )
        self._dispatcher.pump()
        self._failpoints.hit("task.accepted")
        return accepted

    def _refuse_changed(self, request: TaskRequest, sampling: Sampling, spec: PoolSpec) -> None:
        """While its prompt was counted the pool may have begun to drain, changed, or gone."""
        if all(known.pool_id != spec.pool_id for known in self._specs):
            raise PoolUnavailable(spec.pool_id, "it is no longer configured")
        view = self._pools.pools.get(spec.pool_id)
        refuse_unable(request, sampling, spec, told(view))
        refuse_closed(spec, view)
        refuse_unproven(request, spec, view, self._pools.devices)

    async def _place(self, arrival: Arrival, sampling: Sampling) -> tuple[PoolSpec, PromptSize]:
        """The first pool that admits the task and whose context surely holds it.

        Raises:
            Refusal: that of the last pool tried.
        """
        pools = admitting_pools(
            arrival.request, sampling, self._specs, self._pools.pools, self._pools.devices
        )
        for spec in pools[:-1]:
            try:
                return spec, await self._size(arrival, spec)
            except ContextExceeded:
                continue
        return pools[-1], await self._size(arrival, pools[-1])

    async def _size(self, arrival: Arrival, spec: PoolSpec) -> PromptSize:
        """How long the prompt is: counted where an estimate would not do.

        That is where it might not fit, and where a budget pays for each token.
        Where nobody can be asked the engine's own refusal stays the last word.

        Raises:
            ContextExceeded: it does not fit.
        """
        request = arrival.request
        size = estimate(request)
        in_doubt = size.longest + output_bound(request) > spec.ctx
        if in_doubt or self._pays_per_token(request):
            counted = await self._counter.count(request, spec, arrival.correlation_id)
            if counted is not None:
                size = counted
                refuse_too_long(request, counted.longest, spec)
        return size

    def _pays_per_token(self, request: TaskRequest) -> bool:
        if request.session_id is None:
            return False
        ledger = self._scheduler.sessions.ledger(request.session_id, self._clock.now())
        return ledger.limits.tokens is not None or ledger.limits.cost is not None

    def _new_task(
        self,
        arrival: Arrival,
        spec: PoolSpec,
        admitted: Admitted,
        sampling: Sampling,
        unix_ms: int,
    ) -> NewTask:
        self._sequence += 1
        seed = arrival.request.seed
        return NewTask(
            task_id=arrival.task_id,
            sequence=self._sequence,
            body_sha256=arrival.body_sha256,
            request=arrival.request,
            correlation_id=arrival.correlation_id,
            pool_id=spec.pool_id,
            seed=secrets.randbelow(SEED_MAX + 1) if seed is None else seed,
            created_ms=unix_ms,
            prompt_tokens=admitted.ask.prompt_tokens,
            predicted_start_ms=milliseconds(admitted.forecast.start_ms),
            hold=admitted.hold,
            sampling=sampling,
            sampler_profile_version=profile_of(arrival.request),
        )

    def _told(
        self, task_id: str, state: TaskState, pool_id: str, budgets: Budgets | None
    ) -> Accepted:
        now, candidates = self._clock.now(), self._pools.replicas(pool_id)
        forecast = self._scheduler.forecast(task_id, now, candidates)
        backoff = 0
        if any(spec.pool_id == pool_id for spec in self._specs):
            told = self._scheduler.backoff_ms(pool_id, now, candidates)
            backoff = FALLBACK_BACKOFF_MS if told is None else told
        return Accepted(
            task_id,
            state,
            None if forecast is None else forecast.position,
            None if forecast is None else milliseconds(forecast.start_ms),
            backoff,
            budgets,
        )


def milliseconds(value: float | None) -> int | None:
    """A prediction as a client reads it: whole, and within the bounds of the contract."""
    return None if value is None else min(round(value), MILLISECONDS_MAX)


def _ask(arrival: Arrival, spec: PoolSpec, size: PromptSize) -> Ask:
    request = arrival.request
    most_output = output_bound(request)
    return Ask(
        task_id=arrival.task_id,
        pool_id=spec.pool_id,
        priority=request.priority,
        prompt_tokens=size.tokens,
        max_tokens=most_output,
        expected_tokens=request.expected_tokens,
        hold_tokens=size.most + most_output,
        deadline_ms=request.deadline_ms,
        session_id=request.session_id,
    )


def _session_hold(admitted: Admitted, unix_ms: int) -> SessionHold | None:
    session = admitted.session
    if session is None:
        return None
    return SessionHold(
        session_id=session.session_id,
        created_ms=session.created_ms,
        expires_ms=unix_ms + session.terms.ttl_ms,
        terms=session.terms,
        hold=admitted.hold,
        is_new=not session.stored,
    )


def _scheduled(new: NewTask, admitted: Admitted, now: float) -> ScheduledTask:
    deadline, forecast = new.request.deadline_ms, admitted.forecast
    start_ms = forecast.start_ms
    return ScheduledTask(
        task_id=new.task_id,
        pool_id=new.pool_id,
        priority=Priority(new.request.priority),
        sequence=new.sequence,
        accepted_at=now,
        work=admitted.work,
        max_tokens=admitted.ask.max_tokens,
        deadline=None if deadline is None else now + deadline / 1000,
        session=admitted.session,
        hold=admitted.hold,
        predicted_start_at=None if start_ms is None else now + start_ms / 1000,
        predicted_ms=forecast.end_ms,
    )
