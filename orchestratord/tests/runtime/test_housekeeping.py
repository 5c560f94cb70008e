"""Clocks that run out, and leases that must be kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from contracts.errors import ErrorCode
from orchestratord.clients.pools import LEASE_TTL_MS
from orchestratord.runtime.housekeeping import TURNING_S
from orchestratord.tests.builders import replica
from orchestratord.tests.runtime.frames import text_of
from orchestratord.tests.runtime.world import END, PoolFault, World, error_of, world_at
from worker_adapters.base import Progress, Token
from worker_adapters.scripted import Fault

pytestmark = pytest.mark.anyio

RENEWAL_S = LEASE_TTL_MS / 3000


async def test_a_deadline_that_passes_in_the_queue_ends_the_task_unstarted(path: Path) -> None:
    """LO-ORC-025."""
    async with world_at(path, slots=0) as world:
        accepted = await world.submit(deadline_ms=1_000)
        await world.pass_time(0.999)
        assert not world.log(accepted).sealed
        await world.pass_time(0.001)
        frames = await world.frames(accepted)
        assert [frame.name for frame in frames] == ["error"]
        assert error_of(frames) is ErrorCode.DEADLINE_UNMET
        world.serve(replica())
        await anyio.wait_all_tasks_blocked()
        assert world.engines.clients == []
        assert (await world.row(accepted))["error_code"] == "DEADLINE_UNMET"


async def test_a_deadline_that_passes_while_it_runs_cuts_the_task(world: World) -> None:
    world.play([Token("a"), Fault.SILENT])
    accepted = await world.submit(deadline_ms=1_000)
    await world.until(accepted, "token")
    await world.pass_time(0.999)
    assert not world.log(accepted).sealed
    await world.pass_time(0.001)
    frames = await world.frames(accepted)
    assert error_of(frames) is ErrorCode.DEADLINE_UNMET
    assert text_of(frames) == (await world.row(accepted))["text"] == "a"
    assert world.engines.clients[0].abandoned == 1


async def test_a_deadline_that_passed_while_it_ran_holds_after_a_rerun(world: World) -> None:
    """LO-ORC-025."""
    gate = asyncio.Event()
    world.play([gate, Fault.LOST])
    accepted = await world.submit(deadline_ms=1_000)
    await world.until(accepted, "started")
    world.clock.advance(2)
    world.dispatcher.pump()
    gate.set()
    assert error_of(await world.frames(accepted)) is ErrorCode.DEADLINE_UNMET
    assert len(world.engines.clients) == 1


async def test_an_engine_that_never_begins_is_given_up_after_first_token_ms(world: World) -> None:
    """LO-ORC-045."""
    world.play([Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "started")
    await world.pass_time(120)
    assert not world.log(accepted).sealed
    await world.pass_time(0.001)
    frames = await world.frames(accepted)
    assert error_of(frames) is ErrorCode.DECODE_TIMEOUT
    assert frames[-1].data["message"] == "no first token within 120000 ms"
    assert world.engines.clients[0].abandoned == 1


async def test_an_engine_that_falls_silent_is_given_up_after_idle_token_ms(world: World) -> None:
    """LO-ORC-045: counted from the newest token."""
    gate = asyncio.Event()
    world.play([Token("a"), gate, Token("b"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "token")
    await world.pass_time(29)
    gate.set()
    await anyio.wait_all_tasks_blocked()
    await world.pass_time(30)
    assert not world.log(accepted).sealed
    await world.pass_time(0.001)
    frames = await world.frames(accepted)
    assert error_of(frames) is ErrorCode.DECODE_TIMEOUT
    assert frames[-1].data["message"] == "no token for 30000 ms"
    assert text_of(frames) == "ab"


async def test_a_lease_is_renewed_each_third_of_its_ttl(world: World) -> None:
    """LO-ORC-040."""
    world.play([Token("a"), Fault.SILENT])
    await world.until(await world.submit(), "token")
    for expected in (0, 1, 1, 2):
        await world.pass_time(RENEWAL_S / 2)
        await anyio.wait_all_tasks_blocked()
        assert world.leases.renewals == expected


async def test_a_manager_that_is_away_interrupts_no_attempt(world: World) -> None:
    """LO-ORC-047."""
    gate = asyncio.Event()
    world.play([Token("a"), gate, END])
    accepted = await world.submit()
    await world.until(accepted, "token")
    world.pools.update(None, 0.0, 0)
    world.leases.renewal_fault = PoolFault.AWAY
    await world.pass_time(RENEWAL_S)
    await anyio.wait_all_tasks_blocked()
    gate.set()
    assert (await world.frames(accepted))[-1].name == "end"


async def test_a_lease_that_is_lost_after_a_token_ends_the_task(world: World) -> None:
    world.play([Token("a"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "token")
    world.leases.renewal_fault = PoolFault.REFUSED
    await world.pass_time(RENEWAL_S)
    assert error_of(await world.frames(accepted)) is ErrorCode.WORKER_RESET


async def test_a_lease_that_is_lost_before_a_token_means_another_attempt(world: World) -> None:
    world.serve(replica(0), replica(1))
    world.play([Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "started")
    world.leases.renewal_fault = PoolFault.REFUSED
    await world.pass_time(RENEWAL_S)
    frames = await world.frames(accepted)
    assert [frame.name for frame in frames] == ["started", "started", "token", "token", "end"]


async def test_a_renewal_never_takes_a_slot_back_after_its_release(world: World) -> None:
    """LO-ORC-048."""
    world.play([Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "started")
    attempt = world.attempt_of(accepted)
    await world.dispatcher.cancel(accepted.task_id)
    await anyio.wait_all_tasks_blocked()
    await attempt.renew()
    assert world.leases.held == {}


async def test_an_attempt_that_is_stopped_as_its_first_token_comes_is_run_again(
    world: World,
) -> None:
    """LO-ORC-042: no token was readable, so this must not read as if one was."""
    gate = asyncio.Event()
    world.serve(replica(0), replica(1))
    world.play([gate, Token("never"), END])
    accepted = await world.submit()
    await world.until(accepted, "started")
    await anyio.wait_all_tasks_blocked()
    attempt = world.attempt_of(accepted)
    gate.set()
    attempt.abort(attempt._reset("the lease was lost"))
    frames = await world.frames(accepted)
    assert [frame.name for frame in frames] == ["started", "started", "token", "token", "end"]
    assert text_of(frames) == "hello"


async def test_an_attempt_that_is_stopped_as_its_mark_is_written_ends_unread(
    world: World,
) -> None:
    """LO-ORC-041: the token behind the mark is not shown."""
    gate = asyncio.Event()
    world.play([gate, Token("never"), END])
    accepted = await world.submit()
    await world.until(accepted, "started")
    attempt = world.attempt_of(accepted)
    gate.set()
    with anyio.fail_after(10):
        while not attempt.readable:
            await anyio.lowlevel.checkpoint()
    await world.dispatcher.cancel(accepted.task_id)
    frames = await world.frames(accepted)
    assert [frame.name for frame in frames] == ["started", "error"]
    assert error_of(frames) is ErrorCode.CANCELED


async def test_a_daemon_that_stood_still_blames_no_engine_for_it(world: World) -> None:
    """LO-ORC-045: the tokens of that time wait in the sockets, and are read first."""
    gate = asyncio.Event()
    world.play([Token("a"), gate, Token("b"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "token")
    await world.pass_time(1)
    world.clock.advance(60)
    world.housekeeping.tick(world.clock.now())
    gate.set()
    await anyio.wait_all_tasks_blocked()
    await world.pass_time(29)
    assert not world.log(accepted).sealed
    await world.pass_time(2)
    assert error_of(await world.frames(accepted)) is ErrorCode.DECODE_TIMEOUT


async def test_an_engine_that_is_silent_after_a_stall_is_given_up_a_moment_later(
    world: World,
) -> None:
    """LO-ORC-045."""
    world.play([Token("a"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "token")
    await world.pass_time(1)
    world.clock.advance(60)
    world.housekeeping.tick(world.clock.now())
    assert not world.log(accepted).sealed
    await world.pass_time(1.1)
    assert error_of(await world.frames(accepted)) is ErrorCode.DECODE_TIMEOUT


async def test_a_prefill_that_shows_progress_is_slow_and_not_dead(world: World) -> None:
    """LO-ORC-045."""
    gates = [asyncio.Event() for _ in range(4)]
    steps = [step for n, gate in enumerate(gates) for step in (Progress(400, 0, 100 * n), gate)]
    world.play([*steps, Token("a"), END])
    accepted = await world.submit()
    for gate in gates:
        await anyio.wait_all_tasks_blocked()
        await world.pass_time(119)
        gate.set()
    assert (await world.frames(accepted))[-1].name == "end"


async def test_clocks_are_watched_while_they_are_looked_at_and_not_after(world: World) -> None:
    """LO-SYS-072."""
    world.housekeeping.tick(world.clock.now())
    world.clock.advance(TURNING_S - 0.1)
    assert world.housekeeping.is_turning()
    world.clock.advance(0.1)
    assert not world.housekeeping.is_turning()
