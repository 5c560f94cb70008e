"""Leases on live replicas: the table of `domain.leases`, with a clock and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio

from contracts.errors import ErrorCode, Refusal
from contracts.ids import new_uuid
from contracts.pools import Lease, LeaseRenewal, LeaseRequest
from contracts.service.failpoints import Failpoints
from pool_managerd.clock import Clock
from pool_managerd.domain.leases import Claim, HeldLease, LeaseConflict, LeaseTable, Work
from pool_managerd.replica import Replica

EXPIRY_S = 0.5
TURNING_MS = 5_000
"""A loop whose newest tick is older does not turn any more."""


class Leasing:
    """Gives, renews and takes back slots; `changed` is called when what is used changes."""

    def __init__(
        self,
        replicas: Mapping[str, Replica],
        clock: Clock,
        changed: Callable[[], None],
        failpoints: Failpoints,
    ) -> None:
        self._replicas = replicas
        self._clock = clock
        self._changed = changed
        self._failpoints = failpoints
        self._table = LeaseTable()
        self._cut_off: dict[str, frozenset[str]] = {}
        self._freed = anyio.Event()
        self._ticked_ms: int | None = None

    def grant(self, request: LeaseRequest) -> Lease:
        """A slot of the replica.

        Raises:
            Refusal: NOT_FOUND for an unknown replica, CONFLICT with `details.reason`.
        """
        replica = self._replica(request)
        self._failpoints.hit("lease.grant")
        with _Conflicts():
            held = self._table.grant(_claim(request, replica), self._clock.now_ms(), new_uuid())
        return self._lease(held, replica)

    def renew(self, lease_id: str, request: LeaseRequest) -> Lease:
        """The same slot for another TTL, or again after a restart of this daemon.

        Raises:
            Refusal: NOT_FOUND for an unknown replica, CONFLICT with `details.reason`.
        """
        replica = self._replica(request)
        with _Conflicts():
            held = self._table.renew(lease_id, _claim(request, replica), self._clock.now_ms())
        return self._lease(held, replica)

    def release(self, lease_id: str, *, stalled: bool = False) -> None:
        """Give a slot back; a lease that is not known is released already.

        Args:
            stalled: its task was given up because the engine sent nothing for too
                long; the replica has to prove itself before it gets new work.
        """
        held = self._table.release(lease_id, self._clock.now_ms())
        replica = self._replicas.get(held.replica_id) if held is not None else None
        if stalled and replica is not None:
            replica.suspect("a task on it was given up, since no token came")
        self._tell_freed()

    def void(self, replica_id: str) -> None:
        """Drop the leases of a replica that does not serve any more."""
        tasks = self._table.void(replica_id, self._clock.now_ms())
        self._cut_off[replica_id] = self.cut_off(replica_id) | tasks
        self._wake()

    def cut(self, replica_id: str) -> None:
        """End the leases of a replica that drains and whose time is up."""
        self._table.void(replica_id, self._clock.now_ms())
        self._tell_freed()

    async def until_idle(self, replica_id: str) -> None:
        """Return once no lease is held on the replica."""
        while self.used(replica_id):
            await self._freed.wait()

    def cut_off(self, replica_id: str) -> frozenset[str]:
        """The tasks that held slots of a replica when it ceased to serve; told once."""
        return self._cut_off.pop(replica_id, frozenset())

    def work(self, replica_id: str) -> Work:
        """What runs on the replica under leases."""
        return self._table.work(replica_id)

    def coldest_slot(self, replica_id: str) -> int | None:
        """The free slot whose cache is worth least; None where all are taken."""
        replica = self._replicas.get(replica_id)
        return None if replica is None else self._table.coldest_slot(replica_id, replica.slots)

    def used(self, replica_id: str) -> int:
        """Slots of the replica under a lease."""
        return self._table.used(replica_id)

    async def expire(self) -> None:
        """Take back what was not renewed, for ever."""
        while True:
            await anyio.sleep(EXPIRY_S)
            self._ticked_ms = self._clock.now_ms()
            if self._table.expire(self._ticked_ms):
                self._tell_freed()

    def is_turning(self) -> bool:
        """Whether `expire` looked at the leases lately."""
        seen = self._ticked_ms
        return seen is not None and self._clock.now_ms() - seen < TURNING_MS

    def _tell_freed(self) -> None:
        self._changed()
        self._wake()

    def _wake(self) -> None:
        self._freed.set()
        self._freed = anyio.Event()

    def _replica(self, request: LeaseRequest) -> Replica:
        replica = self._replicas.get(request.replica_id)
        if replica is None:
            raise Refusal(ErrorCode.NOT_FOUND, "No such replica is configured.")
        return replica

    def _lease(self, held: HeldLease, replica: Replica) -> Lease:
        self._changed()
        if replica.endpoint is None:
            # Its leases went with its endpoint, in one step: this cannot be.
            raise AssertionError(f"a lease on {held.replica_id}, which serves nowhere")
        return Lease(
            lease_id=held.lease_id,
            base_url=replica.endpoint.base_url,
            api_key=replica.endpoint.api_key,
            slot=held.slot,
        )


def _claim(request: LeaseRequest, replica: Replica) -> Claim:
    return Claim(
        replica_id=request.replica_id,
        task_id=request.task_id,
        epoch=request.epoch,
        holder=request.holder,
        ttl_ms=request.ttl_ms,
        slots=replica.slots_open,
        preferred_slot=request.preferred_slot,
        idle_ms=request.idle_ms if isinstance(request, LeaseRenewal) else None,
    )


class _Conflicts:
    """Turns a broken rule of the table into what the caller reads."""

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, LeaseConflict):
            raise Refusal(
                ErrorCode.CONFLICT, f"No lease: {error}.", details={"reason": error.conflict.value}
            ) from error
