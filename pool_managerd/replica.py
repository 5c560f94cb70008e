"""What is known of one replica.  Its supervisor alone writes here; all others read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from anyio.lowlevel import checkpoint_if_cancelled

from contracts.config import Pool
from contracts.pools import FailureReason, LastError, Preparation, ReplicaState, ReplicaView
from pool_managerd.clock import Clock
from pool_managerd.domain.replica_state import Move, after
from pool_managerd.failure import Failure
from worker_adapters.base import Observation


@dataclass(frozen=True, slots=True)
class ReplicaEntry:
    """One entry of a pool's `replicas`, and its place in the configuration."""

    pool: Pool
    pool_index: int
    index: int

    @property
    def replica_id(self) -> str:
        """The pool's id, a slash, the entry's index."""
        return f"{self.pool.id}/{self.index}"

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
        self.model_digest: str | None = None
        self.last_error: LastError | None = None
        self.preparation: Preparation | None = None
        self.restarts: dict[FailureReason, int] = {}
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
        return self.slots if self.state is ReplicaState.READY else 0

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

    def launched(self, endpoint: Endpoint, pid: int | None, devices: tuple[str, ...]) -> None:
        """It exists, at this address, on these cards."""
        self.endpoint, self.pid, self.devices = endpoint, pid, devices
        self._changed(self)

    def observed(self, observation: Observation) -> None:
        """The engine said this of itself."""
        if observation != self.observation:
            self.observation = observation
            self._changed(self)

    async def answered(self, observation: Observation) -> None:
        """It was asked while it served, and answered."""
        self.observed(observation)
        if self.state is ReplicaState.UNHEALTHY:
            await self.advance(Move.SERVES)

    async def unanswered(self, why: str) -> None:
        """It was asked while it served, and took no connection; it gets no new work."""
        if self.state is ReplicaState.READY:
            await self.advance(Move.UNREACHABLE)
            self.failed(Failure(FailureReason.UNREACHABLE, why))

    def preparing(self, preparation: Preparation | None) -> None:
        """It has come so far before it serves; None: there is nothing to tell."""
        if preparation != self.preparation:
            self.preparation = preparation
            self._changed(self)

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
        self.endpoint = self.pid = self.observation = None
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
            preparation=self.preparation,
        )
