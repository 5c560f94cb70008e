"""One pool as it is kept: what it serves, whether it drains, and how it is changed.

What an operator changes while the daemon runs (`drain`, `resume`, `reload`) holds over
a restart.  A change of the configuration goes the way of a reload: what differs is
exchanged, and where the new does not serve the old does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup

from contracts.config import Config, External, ModelConfig, Pool
from contracts.errors import ErrorCode, Refusal
from contracts.pools import PoolView, ReloadRequest, ReloadState, ReloadView
from pool_managerd.changeover import CUT_GRACE_S, Changeover, ExchangeFailed, NotRestored, Terms
from pool_managerd.clock import Clock
from pool_managerd.domain.health import pool_view
from pool_managerd.fleet import Fleet
from pool_managerd.leasing import Leasing
from pool_managerd.pool_records import PoolRecord, PoolRecords
from pool_managerd.replica import ReplicaEntry

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PoolTools:
    """What keeping a pool takes; one for all pools."""

    fleet: Fleet
    leasing: Leasing
    records: PoolRecords
    clock: Clock
    group: TaskGroup
    has_room: Callable[[ReplicaEntry], Awaitable[bool]]
    changed: Callable[[], None]


def entries_of(configured: Pool, place: int, record: PoolRecord | None) -> list[ReplicaEntry]:
    """The replicas a pool is to have, as its record has it.

    `place` is its index in the configuration, for messages.
    """
    serving = configured if record is None else record.applied(configured)
    count = len(serving.replicas)
    numbers = tuple(range(count)) if record is None else record.numbers
    if len(numbers) != count:
        numbers = tuple(range(count))
    return [ReplicaEntry(serving, place, index, numbers[index]) for index in range(count)]


class ManagedPool:
    """The one owner of a pool's replicas."""

    def __init__(
        self,
        configured: Pool,
        place: int,
        config: Config,
        tools: PoolTools,
        record: PoolRecord | None = None,
    ) -> None:
        self.configured = configured
        self.serving = configured if record is None else record.applied(configured)
        self.draining = record is not None and record.draining
        self.cut_at_ms: int | None = None
        self._place = place
        self._config = config
        self._tools = tools
        self._reload: ReloadView | None = None
        self._target: Pool | None = None
        self._keeps_model = True
        """Whether the configuration names the model that it named before."""
        self._behind = False
        """Whether the configuration has changed since the change that is under way began."""
        self._change = anyio.CancelScope()
        self._drains = 0
        self._members: dict[int, str] = {}
        for entry in entries_of(configured, place, record):
            self._add(entry)

    def view(self) -> PoolView:
        """What a snapshot shows."""
        fleet, leasing = self._tools.fleet, self._tools.leasing
        replicas = [r.view(leasing.used(r.entry.replica_id)) for r in fleet.of(self.serving.id)]
        return pool_view(
            self.serving,
            replicas,
            fleet.breakers(self.serving.id),
            draining=self.draining,
            reload=self._reload,
        )

    async def drain(self, deadline_ms: int | None) -> None:
        """Give no new lease from now on; cut what still runs after `deadline_ms`."""
        within_ms = self._config.timeouts.drain_ms if deadline_ms is None else deadline_ms
        self.draining = True
        self.cut_at_ms = self._tools.clock.unix_ms() + within_ms
        self._drains += 1
        self._drain_replicas()
        self._tools.group.start_soon(self._cut, self._drains, within_ms / 1000 + CUT_GRACE_S)
        _log.info("pool.draining", pool_id=self.serving.id, within_ms=within_ms)
        await self._keep()

    async def resume(self) -> None:
        """Give leases again, and try again whatever had been given up.

        Raises:
            Refusal: CONFLICT while a reload is under way.
        """
        self._refuse_while_changing()
        self.draining, self.cut_at_ms = False, None
        self._drains += 1
        for replica in self._tools.fleet.of(self.serving.id):
            replica.resume()
            self._tools.fleet.supervisor(replica.entry.replica_id).retry()
        self._tools.changed()
        _log.info("pool.resumed", pool_id=self.serving.id)
        await self._keep()

    def reload(self, request: ReloadRequest) -> None:
        """Begin to serve another model, or the same one anew; asked twice, it is one reload.

        Every replica is exchanged, so that all are alike whatever was done to the model's
        file or to the engine.

        Raises:
            Refusal: CONFLICT for an external pool, and while another change is under way.
        """
        if isinstance(self.serving.provisioning, External):
            raise Refusal(
                ErrorCode.CONFLICT,
                f"{self.serving.id} is external: its server is somebody else's; reload it there.",
            )
        model = ModelConfig(
            id=self.serving.model.id, ref=request.new_model_ref, digest=request.digest
        )
        target = self.serving.model_copy(update={"model": model})
        if self._target is not None and self._target.model == model:
            return
        self._refuse_while_changing()
        self._begin_change(target, request.deadline_ms, every=True)

    def apply(self, configured: Pool, config: Config) -> None:
        """Go over to another configuration of this pool, exchanging only what differs."""
        self._keeps_model = configured.model == self.configured.model
        self.configured, self._config = configured, config
        for replica in self._tools.fleet.of(self.serving.id):
            supervisor = self._tools.fleet.supervisor(replica.entry.replica_id)
            supervisor.budget.follow(configured.restart)
        # A change that was torn off midway would leave two engines in one place.
        self._behind = self._target is not None
        if not self._behind:
            self._begin_change(self._wanted(), None)

    async def close(self) -> None:
        """Drain, and end every replica: the pool is not wanted any more."""
        self._change.cancel()
        await self.drain(None)
        with anyio.move_on_after(self._config.timeouts.drain_ms / 1000 + CUT_GRACE_S):
            for replica_id in self._members.values():
                await self._tools.leasing.until_idle(replica_id)
        for replica in self._tools.fleet.of(self.serving.id):
            await self._tools.fleet.remove(replica.entry.replica_id)
        await anyio.to_thread.run_sync(self._tools.records.remove, self.serving.id)

    def halt(self) -> None:
        """Leave off changing it: the daemon is stopping."""
        self._change.cancel()

    def _wanted(self) -> Pool:
        """As configured, with the model of a reload that the configuration does not undo."""
        if not self._keeps_model:
            return self.configured
        return self.configured.model_copy(update={"model": self.serving.model})

    def _add(self, entry: ReplicaEntry) -> None:
        supervisor = self._tools.fleet.add(entry)
        self._members[entry.index] = entry.replica_id
        if self.draining:
            supervisor.replica.drain(None)

    def _drain_replicas(self) -> None:
        for replica in self._tools.fleet.of(self.serving.id):
            replica.drain(self.cut_at_ms)
        self._tools.changed()

    async def _cut(self, drain: int, wait_s: float) -> None:
        """End the leases that outlived their time, unless the drain is over by then."""
        await anyio.sleep(wait_s)
        if drain != self._drains:
            return
        for replica in self._tools.fleet.of(self.serving.id):
            self._tools.leasing.cut(replica.entry.replica_id)

    def _refuse_while_changing(self) -> None:
        if self._target is not None:
            raise Refusal(
                ErrorCode.CONFLICT,
                f"{self.serving.id} is being reloaded with {self._target.model.ref}; wait for it.",
            )

    def _begin_change(self, target: Pool, deadline_ms: int | None, *, every: bool = False) -> None:
        self._target, self._change = target, anyio.CancelScope()
        self._note(ReloadState.RUNNING, target, "the new model is being prepared")
        changeover = self._changeover(target, deadline_ms)
        run = partial(changeover.run, target, every=every)
        self._tools.group.start_soon(self._run_change, target, run, self._change)

    async def _run_change(
        self, target: Pool, run: Callable[[], Awaitable[None]], scope: anyio.CancelScope
    ) -> None:
        with scope:
            try:
                await self._changed_to(target, run)
            finally:
                self._target = None
        if self._behind and not scope.cancel_called:
            self._behind = False
            self._begin_change(self._wanted(), None)

    async def _changed_to(self, target: Pool, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except ExchangeFailed as error:
            restored = not isinstance(error, NotRestored)
            state = ReloadState.ROLLED_BACK if restored else ReloadState.FAILED
            self._note(state, target, str(error))
            if self.draining:
                self._drain_replicas()
            return
        self.draining, self.cut_at_ms = False, None
        self._note(ReloadState.SUCCEEDED, target, f"{target.model.ref} serves")
        self.serving = target
        await self._fit_count(target)
        await self._keep()

    async def _fit_count(self, target: Pool) -> None:
        """Add the replicas that the target has more, end those it has not any more."""
        generation = max(r.entry.generation for r in self._tools.fleet.of(target.id))
        for entry in entries_of(target, self._place, None):
            if entry.index not in self._members:
                self._add(replace(entry, generation=generation))
        for index in [index for index in self._members if index >= len(target.replicas)]:
            await self._tools.fleet.remove(self._members.pop(index))

    def _changeover(self, target: Pool, deadline_ms: int | None) -> Changeover:
        supervision, timeouts = self._config.supervision, self._config.timeouts
        terms = Terms(
            start_s=(supervision.start_ms if deadline_ms is None else deadline_ms) / 1000,
            cut_ms=timeouts.drain_ms if deadline_ms is None else deadline_ms,
            probation_s=supervision.probation_ms / 1000,
        )
        return Changeover(
            self._tools.fleet,
            self._tools.leasing,
            self._tools.clock,
            self._members,
            terms,
            self._tools.has_room,
            lambda message: self._note(ReloadState.RUNNING, target, message),
        )

    def _note(self, state: ReloadState, target: Pool, message: str) -> None:
        self._reload = ReloadView(
            state=state,
            from_ref=self.serving.model.ref,
            to_ref=target.model.ref,
            message=message[:2048],
            at_ms=self._tools.clock.unix_ms(),
        )
        _log.info("pool.reload", pool_id=self.serving.id, state=state.value, message=message)
        self._tools.changed()

    async def _keep(self) -> None:
        """Write down what a restart must know; a disk that takes nothing is told of."""
        model, named = self.serving.model, self.configured.model
        numbers = (int(self._members[index].rpartition("/")[2]) for index in sorted(self._members))
        record = PoolRecord(
            named.ref, named.digest, model.ref, model.digest, self.draining, tuple(numbers)
        )
        try:
            await anyio.to_thread.run_sync(self._tools.records.write, self.serving.id, record)
        except OSError as error:
            _log.error("pool.unrecorded", pool_id=self.serving.id, message=str(error))
