"""The slot of one attempt: LO-ORC-040."""

from __future__ import annotations

import anyio
import pytest

from contracts.pools import Lease
from orchestratord.clients.pools import LEASE_TTL_MS
from orchestratord.runtime.held_lease import HeldLease
from orchestratord.tests.builders import TASK_ID
from orchestratord.tests.runtime.world import HandClock, PoolFault, PoolsStandIn

pytestmark = pytest.mark.anyio

THIRD_S = LEASE_TTL_MS / 3000


class SlowPools(PoolsStandIn):
    """A manager whose renewals take until they are allowed to end."""

    def __init__(self) -> None:
        super().__init__()
        self.renewal_allowed = anyio.Event()
        self.renewals_begun = 0

    async def renew(
        self,
        lease: Lease,
        replica_id: str,
        task_id: str,
        epoch: int,
        idle_ms: int | None = None,
    ) -> None:
        self.renewals_begun += 1
        await self.renewal_allowed.wait()
        await super().renew(lease, replica_id, task_id, epoch, idle_ms)


def held_by(pools: PoolsStandIn, clock: HandClock | None = None) -> HeldLease:
    return HeldLease(pools, clock or HandClock(), "chat/0", TASK_ID, 1, "c-1")


async def test_a_renewal_is_due_once_in_a_third_of_the_ttl() -> None:
    pools, clock = PoolsStandIn(), HandClock()
    lease = held_by(pools, clock)
    assert not lease.renewal_due(clock.now() + LEASE_TTL_MS)
    await lease.acquire()
    seen = []
    for _ in range(8):
        clock.advance(THIRD_S / 2)
        seen.append(lease.renewal_due(clock.now()))
        assert not lease.renewal_due(clock.now())
    assert seen == [False, True] * 4


async def test_a_renewal_after_the_release_asks_for_nothing() -> None:
    pools = PoolsStandIn()
    lease = held_by(pools)
    await lease.acquire()
    await lease.renew()
    assert (pools.renewals, list(pools.held.values())) == (1, ["chat/0"])
    await lease.release()
    await lease.renew()
    await lease.release()
    assert (pools.renewals, pools.held) == (1, {})
    assert not lease.renewal_due(HandClock().now() + LEASE_TTL_MS)


async def test_a_release_waits_for_the_renewal_that_is_under_way() -> None:
    """A renewal that arrived second would make the lease again."""
    pools = SlowPools()
    lease = held_by(pools)
    await lease.acquire()
    async with anyio.create_task_group() as group:
        group.start_soon(lease.renew)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(lease.release)
        group.start_soon(lease.renew)
        await anyio.wait_all_tasks_blocked()
        assert len(pools.held) == pools.renewals_begun == 1
        pools.renewal_allowed.set()
    assert (pools.held, pools.renewals_begun) == ({}, 1)


async def test_a_release_goes_on_when_the_attempt_is_canceled() -> None:
    pools = PoolsStandIn()
    lease = held_by(pools)
    await lease.acquire()
    with anyio.CancelScope() as attempt:
        attempt.cancel()
        await lease.release()
    assert pools.held == {}


async def test_a_lease_that_was_never_granted_is_never_given_back() -> None:
    pools = PoolsStandIn()
    pools.faults.append(PoolFault.AWAY)
    lease = held_by(pools)
    with pytest.raises(Exception, match="away"):
        await lease.acquire()
    await lease.renew()
    await lease.release()
    assert pools.renewals == 0
