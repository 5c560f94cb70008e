"""The slot one attempt holds: taken, kept, given back, one call at a time."""

from __future__ import annotations

import contextlib

import anyio

from contracts.pools import Lease
from orchestratord.clients.pools import LEASE_TTL_MS, PoolManagerAway, PoolsClient
from orchestratord.clock import Clock

RENEW_EVERY_S = LEASE_TTL_MS / 3000
RETRY_EVERY_S = 0.5
"""While a restarted manager does not know of the lease yet."""
GRACE_S = 10.0
"""Beyond the TTL: what a restarted manager may need to find its replicas again."""


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
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        self._pools = pools
        self._clock = clock
        self._replica_id = replica_id
        self._task_id = task_id
        self._epoch = epoch
        self._correlation_id = correlation_id
        self._renew_every_s = renew_every_s
        self._lease: Lease | None = None
        self._asked_at = 0.0
        self._refusable_since = 0.0
        self._doubts = 0
        self._turn = anyio.Lock()

    @property
    def in_doubt(self) -> bool:
        """Whether a restarted manager may not know of it yet."""
        return self._doubts > 0

    def doubt(self) -> None:
        """The manager was started again: until the next renewal it may not know of this slot.

        It may be called while the slot is still being asked for: the answer may
        come from the manager that is gone.
        """
        self._doubts += 1
        self._refusable_since = self._clock.now()

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
        self._asked_at = self._refusable_since = self._clock.now()
        return lease

    def renewal_due(self, now: float) -> bool:
        """Whether it is time to ask for another TTL; asking starts the time anew."""
        wait = min(RETRY_EVERY_S, self._renew_every_s) if self.in_doubt else self._renew_every_s
        due = self._lease is not None and now - self._asked_at >= wait
        if due:
            self._asked_at = now
        return due

    def given_up(self, now: float) -> bool:
        """Whether the manager has had time enough to find the replica again.

        Counted from the newest TTL that was granted, or from when the manager was
        last away or was started again: what it cannot know it may not refuse for good.
        """
        return now - self._refusable_since > LEASE_TTL_MS / 1000 + GRACE_S

    async def renew(self, idle_ms: int | None = None) -> None:
        """Keep the slot for another TTL; raises `LeaseRefused` or `PoolManagerAway`."""
        async with self._turn:
            if self._lease is None:
                return
            doubts = self._doubts
            try:
                await self._pools.renew(
                    self._lease, self._replica_id, self._task_id, self._epoch, idle_ms
                )
            except PoolManagerAway:
                self._refusable_since = self._clock.now()
                raise
            self._refusable_since = self._clock.now()
            # A manager that was started meanwhile is not the one that answered.
            self._doubts -= doubts

    async def release(self, *, stalled: bool = False) -> None:
        """Give the slot back; where the manager is away, the lease's TTL does."""
        with contextlib.suppress(PoolManagerAway), anyio.CancelScope(shield=True):
            async with self._turn:
                lease, self._lease = self._lease, None
                if lease is not None:
                    await self._pools.release(lease, self._correlation_id, stalled=stalled)
