"""What is known of one replica.  Its supervisor alone writes here; all others read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from contracts.config import Pool
from contracts.engines import ReplicaCapabilities
from contracts.pools import FailureReason, LastError, Preparation, ReplicaState, ReplicaView
from pool_managerd.clock import Clock
from pool_managerd.domain.replica_state import Move, after
from pool_managerd.failure import Failure
from pool_managerd.observed import within_bounds
from pool_managerd.replica_log import ReplicaLog
from worker_adapters.base import Observation

LAUNCH_FIELDS = {
    *("id", "engine", "model", "ctx", "slots", "workload", "engine_args", "provisioning"),
}
"""What of a pool makes a launch what it is; a change of the rest restarts nothing."""


@dataclass(frozen=True, slots=True)
class ReplicaEntry:
    """One entry of a pool's `replicas`, its place in the configuration, and its number.

    The number is the index, or another one for a replica that takes the place of a
    running one: for a while there are two of the entry, and each has its own.
    """

    pool: Pool
    pool_index: int
    index: int
    number: int | None = None
    generation: int = 0
    """Rises with each change that exchanges the whole pool; within one all are alike."""

    @property
    def replica_id(self) -> str:
        """The pool's id, a slash, the number."""
        return f"{self.pool.id}/{self.index if self.number is None else self.number}"

    @property
    def fingerprint(self) -> str:
        """Equal for two launches that are asked for in the same way."""
        asked = self.pool.model_dump(mode="json", include=LAUNCH_FIELDS)
        asked["devices"] = self.pool.replicas[self.index].model_dump(mode="json")
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    @property
    def devices_key(self) -> str:
        """The configuration key of its device mask."""
        return f"pools[{self.pool_index}].replicas[{self.index}].devices"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a replica serves, and the key it takes."""

    base_url: str
    api_key: str | None = field(repr=False)


class Replica:
    """The state and the facts of one replica; `changed` is called after every change."""

    def __init__(
        self, entry: ReplicaEntry, clock: Clock, changed: Callable[[Replica], None]
    ) -> None:
        self.entry = entry
        self.state = ReplicaState.STOPPED
        self.devices: tuple[str, ...] = ()
        self.endpoint: Endpoint | None = None
        self.pid: int | None = None
        self.observation: Observation | None = None
        self.capabilities: ReplicaCapabilities | None = None
        self.model_digest: str | None = None
        self.last_error: LastError | None = None
        self.restarts: dict[FailureReason, int] = {}
        self.degraded: str | None = None
        self.preparation: Preparation | None = None
        self.cut_at_ms: int | None = None
        self.log: ReplicaLog | None = None
        """What its processes write; None where they are not ours."""
        self.suspicion: str | None = None
        """Why it gets no new work until it has generated a token."""
        self._suspected = anyio.Event()
        self._draining = False
        self._clock = clock
        self._changed = changed

    @property
    def slots(self) -> int:
        """Slots that may be leased once it is ready; 0 before it was observed."""
        if self.endpoint is None or self.observation is None:
            return 0
        return min(self.entry.pool.slots, self.observation.slots_total)

    @property
    def slots_open(self) -> int:
        """Slots that new leases may be given on now."""
        open_now = self.state is ReplicaState.READY and self.suspicion is None
        return self.slots if open_now else 0

    def move(self, move: Move) -> None:
        """Take a move of the table; raises `IllegalMove` and changes nothing otherwise."""
        self.state = after(self.state, move)
        self._changed(self)

    async def advance(self, move: Move) -> None:
        """Take a move, unless whoever ends this life has canceled it meanwhile.

        A canceled task may still be resumed once with the result it waited for;
        without the check it would move a replica that is being stopped.
        """
        await checkpoint_if_cancelled()
        self.move(move)

    def drain(self, cut_at_ms: int | None) -> None:
        """Give it no new work, now and whenever it comes to serve; Unix ms of the cut."""
        self._draining, self.cut_at_ms = True, cut_at_ms
        if self.state is ReplicaState.READY:
            self.move(Move.DRAIN)
        else:
            self._changed(self)

    def resume(self) -> None:
        """Give it new work again."""
        self._draining, self.cut_at_ms = False, None
        if self.state is ReplicaState.DRAINING:
            self.move(Move.RESUME)
        else:
            self._changed(self)

    async def serves(self) -> None:
        """It proved itself; one that drains takes no work all the same."""
        await checkpoint_if_cancelled()
        self.suspicion, self.preparation = None, None
        self._suspected = anyio.Event()
        self.move(Move.SERVES)
        if self._draining:
            self.move(Move.DRAIN)

    def preparing(self, preparation: Preparation | None) -> None:
        """It is busy with this before it serves."""
        if preparation != self.preparation:
            self.preparation = preparation
            self._changed(self)

    def found_degraded(self, why: str | None) -> None:
        """It serves, and worse than it should; None: it does not."""
        if why != self.degraded:
            self.degraded = why
            self._changed(self)

    def launched(self, endpoint: Endpoint, pid: int | None, devices: tuple[str, ...]) -> None:
        """It exists, at this address, on these cards."""
        self.endpoint, self.pid, self.devices = endpoint, pid, devices
        self._changed(self)

    def observed(self, observation: Observation) -> None:
        """The engine said this of itself."""
        observation = within_bounds(observation)
        if observation != self.observation:
            self.observation = observation
            self._changed(self)

    def introduced(self, capabilities: ReplicaCapabilities) -> None:
        """The engine of this life can be asked for this."""
        self.capabilities = capabilities
        self._changed(self)

    def suspect(self, why: str) -> None:
        """It gets no new work from now on; its watch is woken to ask it for a token."""
        if self.endpoint is not None and self.suspicion is None:
            self.suspicion = why
            self._suspected.set()
            self._changed(self)

    async def until_suspected(self) -> None:
        """Return once somebody suspects it."""
        await self._suspected.wait()

    async def proved(self) -> None:
        """It generated the token it was asked for."""
        if self.state is ReplicaState.UNHEALTHY:
            await self.serves()
        self.suspicion, self._suspected = None, anyio.Event()

    async def stalled(self, why: str) -> None:
        """It is suspected of a hang; it gets no new work."""
        await self._eject(Move.STALLS, Failure(FailureReason.NOT_PROGRESSING, why))

    async def unanswered(self, why: str) -> None:
        """It was asked while it served, and took no connection; it gets no new work."""
        await self._eject(Move.UNREACHABLE, Failure(FailureReason.UNREACHABLE, why))

    async def _eject(self, move: Move, failure: Failure) -> None:
        if self.state is ReplicaState.READY:
            await self.advance(move)
            self.failed(failure)

    def hashed(self, digest: str) -> None:
        """Its model file has this digest."""
        self.model_digest = digest
        self._changed(self)

    def failed(self, failure: Failure) -> None:
        """Note what went wrong; the state follows by `move`."""
        self.last_error = LastError(
            reason=failure.reason,
            message=failure.message,
            at_ms=self._clock.unix_ms(),
            log_tail=failure.log_tail,
        )
        self._changed(self)

    def lost(self) -> None:
        """Nothing serves at its address any more; its leases are void."""
        self.endpoint = self.pid = self.observation = self.capabilities = None
        self.degraded = self.preparation = self.suspicion = self.model_digest = None
        self._changed(self)

    def restarted(self, reason: FailureReason) -> None:
        """It is about to be started again after a failure."""
        self.restarts[reason] = self.restarts.get(reason, 0) + 1

    def view(self, slots_used: int) -> ReplicaView:
        """What a snapshot shows."""
        seen = self.observation
        return ReplicaView(
            replica_id=self.entry.replica_id,
            state=self.state,
            devices=self.devices,
            base_url=None if self.endpoint is None else self.endpoint.base_url,
            pid=self.pid,
            engine_version=None if seen is None else seen.engine_version,
            model_digest=self.model_digest,
            ctx=None if seen is None else min(seen.ctx, self.entry.pool.ctx),
            slots_total=self.slots,
            slots_used=slots_used,
            restarts=sum(self.restarts.values()),
            last_error=self.last_error,
            kv_cache_usage=None if seen is None else seen.kv_cache_usage,
            kv_evictions=None if seen is None else seen.cache_evictions,
            requests_running=None if seen is None else seen.slots_busy,
            requests_waiting=None if seen is None else seen.requests_waiting,
            capabilities=self.capabilities,
            model_ref=self.entry.pool.model.ref,
            degraded=self.degraded,
            preparation=self.preparation,
            cut_at_ms=self.cut_at_ms if self.state is ReplicaState.DRAINING else None,
        )
