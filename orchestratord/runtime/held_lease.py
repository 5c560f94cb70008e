"""The slot one attempt holds: taken, kept, given back, one call at a time."""

from __future__ import annotations

import contextlib

import anyio

from contracts.pools import Lease
from orchestratord.clients.pools import LEASE_TTL_MS, PoolManagerAway, PoolsClient
from orchestratord.clock import Clock


class HeldLease:
    """The right of (task, epoch) to a slot of one replica.

    Calls take turns: a renewal that overtook the release on another connection
    would make the lease again, and block the slot until its TTL.
    """

    def __init__(
        self,
        pools: PoolsClient,
        clock: Clock,
        replica_id: str,
        task_id: str,
        epoch: int,
        correlation_id: str,
    ) -> None:
        self._pools = pools
        self._clock = clock
        self._replica_id = replica_id
        self._task_id = task_id
        self._epoch = epoch
        self._correlation_id = correlation_id
        self._lease: Lease | None = None
        self._renewed_at = 0.0
        self._turn = anyio.Lock()

    @property
    def slot(self) -> int | None:
        """The slot held; None before it is, and after."""
        return None if self._lease is None else self._lease.slot

    async def acquire(self, preferred_slot: int | None = None) -> Lease:
        """Take a slot; raises `LeaseRefused` or `PoolManagerAway`.

        There is no await between the answer and its assignment, so that a
        cancellation cannot lose a lease that was granted.
        """
        self._lease = lease = await self._pools.acquire(
            self._replica_id,
            self._task_id,
            self._epoch,
            self._correlation_id,
            preferred_slot,
        )
        self._renewed_at = self._clock.now()
        return lease

    def renewal_due(self, now: float) -> bool:
        """Whether a third of the TTL has passed; asking starts the next third."""
        due = self._lease is not None and now - self._renewed_at >= LEASE_TTL_MS / 3000
        if due:
            self._renewed_at = now
        return due

    async def renew(self) -> None:
        """Keep the slot for another TTL; raises `LeaseRefused` or `PoolManagerAway`."""
        async with self._turn:
            if self._lease is not None:
                await self._pools.renew(self._lease, self._replica_id, self._task_id, self._epoch)

    async def release(self) -> None:
        """Give the slot back; where the manager is away, the lease's TTL does."""
        with contextlib.suppress(PoolManagerAway), anyio.CancelScope(shield=True):
            async with self._turn:
                lease, self._lease = self._lease, None
                if lease is not None:
                    await self._pools.release(lease, self._correlation_id)
