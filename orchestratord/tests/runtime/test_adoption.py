"""A pool_managerd that died and came back, and what a renewal tells it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from contracts.config import Supervision
from contracts.errors import ErrorCode
from contracts.ids import new_uuid
from contracts.pools import ReplicaState
from orchestratord.clients.pools import LEASE_TTL_MS
from orchestratord.runtime.held_lease import GRACE_S
from orchestratord.tests.builders import pool_view, replica
from orchestratord.tests.runtime.world import END, PoolFault, World, error_of, world_at
from worker_adapters.base import Token
from worker_adapters.scripted import Fault, Step

pytestmark = pytest.mark.anyio

AGAIN = new_uuid()
FOUND = pool_view(replica(slots=2, pid=7))
LOOKED_FOR = pool_view(replica(slots=2, state=ReplicaState.STARTING))


async def running(world: World, *more: Step) -> str:
    """A task whose stream has begun; it goes on with `more`."""
    world.see(FOUND)
    world.play([Token("a"), *(more or (Fault.SILENT,))])
    accepted = await world.submit()
    await world.until(accepted, "token")
    return accepted.task_id


async def test_a_manager_that_is_back_is_told_of_every_slot_before_anything_is_placed(
    world: World,
) -> None:
    """LO-ORC-156."""
    await running(world)
    world.leases.renewal_fault = PoolFault.AWAY
    world.see(FOUND, instance_id=AGAIN)
    accepted = await world.submit()
    await anyio.wait_all_tasks_blocked()
    assert len(world.leases.epochs) == 1
    world.leases.renewal_fault = None
    await world.pass_time(0.5)
    await anyio.wait_all_tasks_blocked()
    await world.pass_time(0.1)
    assert (await world.frames(accepted))[-1].name == "end"
    assert world.leases.renewals == 1


async def test_the_same_manager_is_asked_for_nothing(world: World) -> None:
    await running(world)
    world.dispatcher.see(None)
    world.see(FOUND, version=2)
    await anyio.wait_all_tasks_blocked()
    assert world.leases.renewals == 0


async def test_a_replica_that_is_not_found_again_yet_ends_no_stream(world: World) -> None:
    """LO-ORC-157."""
    gate = asyncio.Event()
    task = await running(world, gate, END)
    world.leases.renewal_fault = PoolFault.NOT_READY
    world.see(LOOKED_FOR, instance_id=AGAIN)
    await world.pass_time(20)
    await anyio.wait_all_tasks_blocked()
    assert not world.log(task).sealed
    world.leases.renewal_fault = None
    await world.pass_time(0.6)
    await anyio.wait_all_tasks_blocked()
    assert world.leases.renewals == 1
    gate.set()
    assert (await world.frames(task))[-1].name == "end"


async def test_a_replica_that_is_never_found_again_is_given_up(path: Path) -> None:
    """LO-ORC-157."""
    async with world_at(path) as world:
        ticks = [asyncio.Event() for _ in range(3)]
        task = await running(
            world, *(step for tick in ticks for step in (tick, Token("b"))), Fault.SILENT
        )
        world.leases.renewal_fault = PoolFault.NOT_READY
        world.see(LOOKED_FOR, instance_id=AGAIN)
        await world.pass_time(15)
        ticks[0].set()
        await anyio.wait_all_tasks_blocked()
        await world.pass_time(15)
        ticks[1].set()
        await anyio.wait_all_tasks_blocked()
        assert not world.log(task).sealed
        await world.pass_time(LEASE_TTL_MS / 1000 + GRACE_S - 30 + 0.6)
        assert error_of(await world.frames(task)) is ErrorCode.WORKER_RESET


async def test_another_launch_under_the_same_name_ends_the_stream(world: World) -> None:
    """LO-ORC-157."""
    task = await running(world)
    world.leases.renewal_fault = PoolFault.NOT_READY
    world.see(pool_view(replica(pid=8)), instance_id=AGAIN)
    assert error_of(await world.frames(task)) is ErrorCode.WORKER_RESET


async def test_a_slot_that_is_another_attempts_ends_the_stream(world: World) -> None:
    """LO-ORC-157."""
    task = await running(world)
    world.leases.renewal_fault = PoolFault.REFUSED
    world.see(FOUND, instance_id=AGAIN)
    assert error_of(await world.frames(task)) is ErrorCode.WORKER_RESET


async def test_renewals_tell_how_long_nothing_has_moved(path: Path) -> None:
    """LO-ORC-158: often enough for a watch of a few seconds."""
    async with world_at(path, supervision=Supervision(stall_ms=3_000)) as world:
        gate = asyncio.Event()
        await running(world, gate, Token("b"), Fault.SILENT)
        await world.pass_time(1.0)
        await anyio.wait_all_tasks_blocked()
        await world.pass_time(1.0)
        gate.set()
        await anyio.wait_all_tasks_blocked()
        await world.pass_time(1.0)
        await anyio.wait_all_tasks_blocked()
        assert world.leases.idle == [1_000, 2_000, 1_000]


async def test_a_daemon_that_stood_still_tells_nothing_of_that_time(path: Path) -> None:
    """LO-ORC-158: the tokens of that time wait in the sockets."""
    async with world_at(path, supervision=Supervision(stall_ms=3_000)) as world:
        await running(world)
        await world.pass_time(0.1)
        world.clock.advance(20)
        world.housekeeping.tick(world.clock.now())
        await anyio.wait_all_tasks_blocked()
        assert world.leases.idle == [None]
