"""Ending a task from outside, at every moment of its life."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from contracts.errors import ErrorCode
from orchestratord.errors import StorageBusy, TaskUnknown
from orchestratord.runtime import dispatcher
from orchestratord.tests.builders import TASK_ID, replica
from orchestratord.tests.runtime.frames import text_of
from orchestratord.tests.runtime.world import World, error_of, world_at
from worker_adapters.base import Token
from worker_adapters.scripted import Fault

pytestmark = pytest.mark.anyio


async def test_a_queued_task_is_canceled_at_once(path: Path) -> None:
    """LO-ORC-080, LO-ORC-083."""
    async with world_at(path, slots=0) as world:
        accepted = await world.submit()
        await world.dispatcher.cancel(accepted.task_id)
        frames = await world.frames(accepted)
        assert [frame.name for frame in frames] == ["error"]
        assert error_of(frames) is ErrorCode.CANCELED
        assert (await world.row(accepted))["state"] == "canceled"
        world.serve(replica())
        await anyio.wait_all_tasks_blocked()
        assert world.engines.clients == []


async def test_no_token_follows_once_cancel_has_returned(world: World) -> None:
    """LO-ORC-081, LO-ORC-082."""
    world.play([Token("x")] * 900_000)
    accepted = await world.submit(max_tokens=999_999)
    await world.until(accepted, "token")
    await world.dispatcher.cancel(accepted.task_id)
    log = world.log(accepted)
    at = log.last_id
    assert log.sealed
    await anyio.wait_all_tasks_blocked()
    assert log.last_id == at
    frames = await world.frames(accepted)
    assert error_of(frames) is ErrorCode.CANCELED
    assert text_of(frames) == (await world.row(accepted))["text"]
    assert world.engines.clients[0].abandoned == 1
    assert world.leases.held == {}
    assert (await world.frames(await world.submit()))[-1].name == "end"


async def test_a_task_is_canceled_while_the_engine_says_nothing(world: World) -> None:
    world.play([Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "started")
    await world.dispatcher.cancel(accepted.task_id)
    assert error_of(await world.frames(accepted)) is ErrorCode.CANCELED
    assert world.engines.clients[0].abandoned == 1


async def test_many_cancels_at_once_make_one_end(world: World) -> None:
    """LO-ORC-080."""
    world.play([Token("x"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "token")
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(world.dispatcher.cancel, accepted.task_id)
    assert error_of(await world.frames(accepted)) is ErrorCode.CANCELED


async def test_canceling_what_has_ended_changes_nothing_and_what_is_unknown_is_told(
    world: World,
) -> None:
    """LO-ORC-080, LO-ORC-090."""
    accepted = await world.submit()
    frames = await world.frames(accepted)
    await world.dispatcher.cancel(accepted.task_id)
    assert await world.frames(accepted) == frames
    assert (await world.row(accepted))["state"] == "succeeded"
    with pytest.raises(TaskUnknown):
        await world.dispatcher.cancel(TASK_ID)


async def test_a_cancel_that_comes_while_a_task_is_put_back_in_line_is_honoured(
    world: World,
) -> None:
    world.leases.release_allowed = anyio.Event()
    world.play([Fault.LOST])
    accepted = await world.submit()
    await world.until(accepted, "started")
    await anyio.wait_all_tasks_blocked()
    async with anyio.create_task_group() as group:
        group.start_soon(world.dispatcher.cancel, accepted.task_id)
        await anyio.wait_all_tasks_blocked()
        world.leases.release_allowed.set()
    frames = await world.frames(accepted)
    assert [frame.name for frame in frames] == ["started", "error"]
    assert error_of(frames) is ErrorCode.CANCELED
    await world.pass_time(5)
    assert len(world.engines.clients) == 1
    assert world.leases.held == {}


@pytest.mark.parametrize("slots", [0, 1])
async def test_a_cancel_whose_end_cannot_be_written_says_so_and_can_be_repeated(
    path: Path, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-ORC-080, LO-ORC-099: queued or running, no token comes after the first one."""
    monkeypatch.setattr(dispatcher, "CANCEL_DEADLINE_S", 0.05)
    async with world_at(path, slots=slots) as world:
        world.play([Token("a"), Fault.SILENT])
        accepted = await world.submit()
        if slots:
            await world.until(accepted, "token")
        with world.locked():
            with anyio.fail_after(2), pytest.raises(StorageBusy):
                await world.dispatcher.cancel(accepted.task_id)
            assert not world.log(accepted).sealed
        monkeypatch.undo()
        await world.dispatcher.cancel(accepted.task_id)
        assert world.log(accepted).sealed
        frames = await world.frames(accepted)
        assert error_of(frames) is ErrorCode.CANCELED
        assert text_of(frames) == "a" * slots
        assert (await world.row(accepted))["state"] == "canceled"
