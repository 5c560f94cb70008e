"""A clean stop, and what the next start makes of it.

LO-ORC-092, LO-ORC-093, LO-ORC-094, LO-ORC-095.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from contracts.errors import ErrorCode
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.errors import ShuttingDown
from orchestratord.tests.builders import TASK_ID, replica
from orchestratord.tests.runtime.frames import Frame, text_of
from orchestratord.tests.runtime.world import (
    END,
    PATIENCE_S,
    WIDE,
    HandClock,
    World,
    error_of,
    world_at,
)
from orchestratord.tests.stores.rows import id_of
from worker_adapters.base import Token
from worker_adapters.scripted import Fault, Step

pytestmark = pytest.mark.anyio

PATIENT_MS = round(PATIENCE_S * 1000)


async def test_readers_of_queued_tasks_are_told_without_an_id_and_the_tasks_live_on(
    path: Path,
) -> None:
    """LO-ORC-095."""
    async with world_at(path, slots=0) as world:
        accepted = await world.submit()
        got: list[list[Frame]] = []

        async def reader() -> None:
            got.append(await world.frames(accepted))

        async with anyio.create_task_group() as group:
            group.start_soon(reader)
            group.start_soon(reader)
            await anyio.wait_all_tasks_blocked()
            await world.stop(0)
        assert got[0] == got[1] == await world.frames(accepted)
        (frame,) = got[0]
        assert (frame.id, frame.name, frame.data["code"]) == (None, "error", "SHUTTING_DOWN")
        assert frame.data["retriable"] is True
        assert (await world.row(accepted))["state"] == "queued"


async def test_a_stopping_daemon_accepts_and_starts_nothing(path: Path) -> None:
    async with world_at(path, slots=0) as world:
        accepted = await world.submit()
        await world.stop(0)
        with pytest.raises(ShuttingDown):
            await world.submit()
        world.serve(replica())
        await anyio.wait_all_tasks_blocked()
        assert world.engines.clients == []
        assert (await world.row(accepted))["state"] == "queued"


async def test_a_running_task_is_given_its_time(world: World) -> None:
    gate = asyncio.Event()
    world.play([Token("a"), gate, END])
    accepted = await world.submit()
    await world.until(accepted, "token")
    async with anyio.create_task_group() as group:
        group.start_soon(world.stop, PATIENT_MS)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert (await world.frames(accepted))[-1].name == "end"
    assert (await world.row(accepted))["state"] == "succeeded"


async def test_readers_of_queued_tasks_need_not_wait_for_the_running_ones(world: World) -> None:
    gate = asyncio.Event()
    world.play([Token("a"), gate, END])
    running, queued = await world.submit(), await world.submit()
    await world.until(running, "token")
    async with anyio.create_task_group() as group:
        group.start_soon(world.stop, PATIENT_MS)
        (frame,) = await world.frames(queued)
        assert (frame.id, frame.data["code"]) == (None, "SHUTTING_DOWN")
        assert not world.log(running).sealed
        gate.set()
    assert (await world.frames(running))[-1].name == "end"


async def test_past_its_time_a_task_nobody_read_goes_back_in_line(world: World) -> None:
    world.play([Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "started")
    await world.stop(0)
    frames = await world.frames(accepted)
    assert [(frame.name, frame.id) for frame in frames] == [("started", 1), ("error", None)]
    assert frames[-1].data["code"] == "SHUTTING_DOWN"
    row = await world.row(accepted)
    assert (row["state"], row["attempt"], row["last_event_id"]) == ("queued", 1, 1)
    assert world.leases.held == {}
    assert world.engines.clients[0].abandoned == 1


async def test_past_its_time_a_task_somebody_read_fails_so_that_it_can_be_sent_again(
    world: World,
) -> None:
    world.play([Token("a"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "token")
    await world.stop(0)
    frames = await world.frames(accepted)
    assert error_of(frames) is ErrorCode.SHUTTING_DOWN
    assert (frames[-1].id, frames[-1].data["retriable"]) == (3, True)
    row = await world.row(accepted)
    assert (row["state"], row["text"]) == ("failed", "a")


async def test_an_idle_daemon_stops_at_once(world: World) -> None:
    with anyio.fail_after(PATIENCE_S):
        await world.stop(10**9)


async def test_queued_tasks_survive_a_kill_and_keep_their_order(path: Path) -> None:
    """LO-ORC-092, LO-ORC-093."""
    clock = HandClock()
    async with world_at(path, clock=clock, slots=0) as world:
        for number in range(1, 7):
            priority = ("batch", "interactive")[number % 2]
            await world.submit(id_of(number), prompt=f"{number}", priority=priority)
    async with world_at(path, clock=clock, slots=0, recover=True) as world:
        later = await world.submit(id_of(9), prompt="9")
        assert later.queue_position == 3
        assert world.position(id_of(1)) == 0
        world.serve(replica())
        for number in (1, 2, 3, 4, 5, 6, 9):
            frames = await world.frames(id_of(number))
            assert [frame.id for frame in frames] == [1, 2, 3, 4]
        prompts = [client.requests[0].prompt for client in world.engines.clients]
        assert prompts == ["1", "3", "5", "9", "2", "4", "6"]


async def killed_while_running(path: Path, clock: HandClock, *script: Step) -> list[Frame]:
    """What a reader saw of TASK_ID before the daemon was killed."""
    async with world_at(path, clock=clock) as world:
        world.play([*script, Fault.SILENT])
        await world.submit(TASK_ID, seed=5, max_tokens=500)
        await world.until(TASK_ID, "token" if script else "started")
        await anyio.wait_all_tasks_blocked()
        log = world.log(TASK_ID)
        return [Frame(n, "", None) for n in range(1, log.last_id + 1)]


async def test_a_running_task_nobody_read_is_run_again_after_a_kill(path: Path) -> None:
    """LO-ORC-094, LO-ORC-072: as a higher attempt, with ids that go on."""
    clock = HandClock()
    seen = await killed_while_running(path, clock)
    assert len(seen) == 1
    async with world_at(path, clock=clock, slots=0, recover=True) as world:
        row = await world.row(TASK_ID)
        assert (row["state"], row["attempt"]) == ("queued", 1)
        world.serve(replica())
        frames = await world.frames(TASK_ID)
        assert [frame.id for frame in frames] == [2, 3, 4, 5]
        assert (frames[0].data["attempt"], frames[0].data["seed"]) == (2, 5)
        assert text_of(frames) == "hello"
        assert world.leases.epochs == [("chat/0", 2)]


async def test_a_running_task_somebody_read_is_interrupted_after_a_kill(path: Path) -> None:
    """LO-ORC-094, LO-ORC-072: with an id beyond all that were used."""
    clock = HandClock()
    seen = await killed_while_running(path, clock, *[Token("x")] * 200)
    async with world_at(path, clock=clock, recover=True) as world:
        (frame,) = await world.frames(TASK_ID)
        assert (frame.name, frame.data["code"]) == ("error", "INTERRUPTED")
        assert frame.id is not None
        assert frame.id > len(seen)
        row = await world.row(TASK_ID)
        assert (row["state"], row["error_code"]) == ("failed", "INTERRUPTED")
        assert row["last_event_id"] == frame.id
        assert world.log(TASK_ID).keeps_all_after(len(seen))
        assert world.engines.clients == []
        world.clock.advance(301)
        world.shelf.evict(world.clock.now(), ())
        assert world.shelf.get(TASK_ID) is None


async def test_a_task_of_a_pool_that_is_gone_ends_pool_unavailable(path: Path) -> None:
    async with world_at(path, slots=0) as world:
        await world.submit(TASK_ID)
    other = PoolSpec("other", "llamacpp", "big", "file:/models/big", ctx=512)
    async with world_at(path, specs=(other,), slots=0, recover=True) as world:
        frames = await world.frames(TASK_ID)
        assert error_of(frames) is ErrorCode.POOL_UNAVAILABLE
        assert "pool chat is no longer configured" in frames[0].data["message"]


async def test_a_deadline_goes_on_while_the_daemon_is_down(path: Path) -> None:
    clock = HandClock()
    async with world_at(path, clock=clock, slots=0) as world:
        await world.submit(id_of(1), deadline_ms=1_000)
        await world.submit(id_of(2), deadline_ms=10_000)
    clock.advance(5)
    async with world_at(path, clock=clock, slots=0, recover=True) as world:
        await world.pass_time(0)
        assert error_of(await world.frames(id_of(1))) is ErrorCode.DEADLINE_UNMET
        await world.pass_time(4.9)
        assert world.position(id_of(2)) == 0
        await world.pass_time(0.2)
        assert error_of(await world.frames(id_of(2))) is ErrorCode.DEADLINE_UNMET


async def test_a_wall_clock_that_was_set_back_counts_as_no_time(path: Path) -> None:
    async with world_at(path, slots=0) as world:
        await world.submit(TASK_ID, deadline_ms=1_000)
    clock = HandClock(epoch_ms=1)
    async with world_at(path, clock=clock, slots=0, recover=True) as world:
        await world.pass_time(0.9)
        assert world.position(TASK_ID) == 0
        await world.pass_time(0.2)
        assert error_of(await world.frames(TASK_ID)) is ErrorCode.DEADLINE_UNMET


async def test_more_tasks_than_the_queue_holds_are_all_taken_up(path: Path) -> None:
    async with world_at(path, slots=0) as world:
        for number in range(1, 6):
            await world.submit(id_of(number))
    async with world_at(path, capacity=2, slots=0, recover=True) as world:
        assert [world.position(id_of(n)) for n in range(1, 6)] == [0, 1, 2, 3, 4]


async def test_a_second_start_finds_what_the_first_one_ended(path: Path) -> None:
    """LO-ORC-096, LO-ORC-090."""
    async with world_at(path) as world:
        await world.submit(TASK_ID)
        await world.frames(TASK_ID)
    async with world_at(path, specs=(WIDE,), recover=True) as world:
        assert (await world.row(TASK_ID))["text"] == "hello"
        assert world.shelf.get(TASK_ID) is None
        assert (await world.submit(TASK_ID)).state == "succeeded"
        await anyio.wait_all_tasks_blocked()
        assert world.engines.clients == []
