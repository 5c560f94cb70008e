"""Drain, reload and resume: what is admitted, what runs on, what is cut."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import anyio
import pytest

from contracts.errors import ErrorCode
from contracts.ids import new_uuid
from contracts.pools import PoolView, ReplicaState
from orchestratord.errors import PoolDraining
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.tests.builders import (
    TASK_ID,
    pool_change,
    pool_view,
    reload_view,
    replica,
    snapshot,
)
from orchestratord.tests.runtime.frames import text_of
from orchestratord.tests.runtime.world import END, World, error_of, world_at
from worker_adapters.base import Token
from worker_adapters.scripted import Fault

pytestmark = pytest.mark.anyio

OTHER = new_uuid()
UP, DRAINED = pool_view(replica()), pool_view(replica(), draining=True)


def draining(world: World, in_s: float, *, reload: bool = False) -> PoolView:
    """The pool while its one replica drains, to be cut in so many seconds."""
    cut = world.clock.unix_ms() + round(in_s * 1000)
    leaving = replica(state=ReplicaState.DRAINING, cut_at_ms=cut)
    if reload:
        return pool_view(leaving, reload=reload_view())
    return pool_view(leaving, draining=True)


async def test_nothing_is_admitted_once_a_drain_was_answered(world: World) -> None:
    """LO-ORC-152: also while a snapshot from before the drain is still on its way."""
    world.dispatcher.note(pool_change("drain", version=2))
    for _ in range(2):
        with pytest.raises(PoolDraining):
            await world.submit()
        world.see(UP, version=1)
    world.see(UP, version=2)
    await world.submit()


async def test_what_waits_is_placed_once_a_resume_was_answered(world: World) -> None:
    """LO-ORC-152."""
    world.see(DRAINED, version=1)
    world.dispatcher.note(pool_change("resume", version=2))
    accepted = await world.submit()
    assert (await world.frames(accepted))[-1].name == "end"
    world.see(DRAINED, version=1)
    await world.submit()


async def test_queued_tasks_wait_for_the_resume(path: Path) -> None:
    """LO-ORC-153."""
    async with world_at(path, slots=0) as world:
        accepted = await world.submit()
        world.see(DRAINED, version=1)
        await anyio.wait_all_tasks_blocked()
        assert world.engines.clients == []
        assert (await world.history.get(accepted.task_id)).predicted_start_ms is None
        world.dispatcher.note(pool_change("resume", version=2))
        assert (await world.frames(accepted))[-1].name == "end"


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_order_the_newest_change_holds(seed: int) -> None:
    """LO-ORC-152: answers and snapshots come on two connections."""
    rng = random.Random(seed)
    truth = [False]
    for _ in range(6):
        truth.append(not truth[-1])
    snapshots = [
        snapshot(pool_view(replica(), draining=now), version=version)
        for version, now in enumerate(truth)
    ]
    view = PoolsView()
    view.update(snapshots[0], 0.0, 0)
    seen = answered = 0
    while answered < len(truth) - 1:
        if rng.random() < 0.5:
            answered += 1
            kind = "drain" if truth[answered] else "resume"
            view.note(pool_change(kind, answered), 0.0, 0)  # type: ignore[arg-type]
        elif seen < len(truth) - 1:
            seen += 1
            view.update(snapshots[seen], 0.0, 0)
        assert view.pools["chat"].draining is truth[max(seen, answered)]
        assert any(c.ready for c in view.candidates(0)["chat"]) is not truth[max(seen, answered)]


def test_a_manager_that_was_started_again_has_the_last_word() -> None:
    """LO-ORC-152: unless its snapshot is of the start before the one that answered."""
    view = PoolsView()
    view.update(snapshot(UP, version=9), 0.0, 0)
    view.note(pool_change("drain", version=1, instance_id=OTHER), 0.0, 0)
    view.update(snapshot(UP, version=10), 0.0, 0)
    assert view.pools["chat"].draining
    view.update(snapshot(UP, version=2, instance_id=OTHER), 0.0, 0)
    assert not view.pools["chat"].draining


@pytest.mark.parametrize("unread", [True, False])
async def test_what_runs_on_a_draining_pool_is_cut_at_the_deadline(
    world: World, unread: bool
) -> None:
    """LO-ORC-154."""
    world.play([Fault.SILENT] if unread else [Token("a"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "started" if unread else "token")
    world.see(draining(world, 2.0), version=2)
    await world.pass_time(1.9)
    assert not world.log(accepted).sealed
    await world.pass_time(0.2)
    frames = await world.frames(accepted)
    assert error_of(frames) is ErrorCode.POOL_DRAINING
    assert frames[-1].data["retriable"] is True
    assert world.engines.clients[0].abandoned == 1


async def test_what_ends_before_the_deadline_ends_well(world: World) -> None:
    """LO-ORC-153."""
    gate = asyncio.Event()
    world.play([Token("a"), gate, END])
    accepted = await world.submit()
    await world.until(accepted, "token")
    world.see(draining(world, 2.0), version=2)
    gate.set()
    assert (await world.frames(accepted))[-1].name == "end"


async def test_an_answer_alone_is_enough_to_cut(world: World) -> None:
    """LO-ORC-154."""
    world.play([Token("a"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "token")
    now = world.clock.unix_ms()
    world.dispatcher.note(pool_change("drain", version=2, cut_at_ms=now))
    await world.pass_time(0.1)
    assert error_of(await world.frames(accepted)) is ErrorCode.POOL_DRAINING


async def test_a_resume_takes_the_cut_back(world: World) -> None:
    """LO-ORC-154."""
    gate = asyncio.Event()
    world.play([Token("a"), gate, END])
    accepted = await world.submit()
    await world.until(accepted, "token")
    world.see(draining(world, 1.0), version=2)
    world.dispatcher.note(pool_change("resume", version=3))
    await world.pass_time(5)
    gate.set()
    assert (await world.frames(accepted))[-1].name == "end"


async def test_an_unread_task_goes_to_the_new_model_of_a_reload(world: World) -> None:
    """LO-ORC-155."""
    world.play([Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "started")
    world.see(draining(world, 1.0, reload=True), version=2)
    await world.pass_time(1.1)
    await anyio.wait_all_tasks_blocked()
    assert not world.log(accepted).sealed
    world.see(pool_view(replica(1)), version=3)
    frames = await world.frames(accepted)
    assert [f.name for f in frames] == ["started", "started", "token", "token", "end"]
    assert frames[1].data["replica_id"] == "chat/1"
    assert (await world.row(accepted))["resets"] == 0


async def test_a_read_task_ends_retriably_at_the_cut_of_a_reload(world: World) -> None:
    """LO-ORC-155."""
    world.play([Token("a"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "token")
    world.see(draining(world, 1.0, reload=True), version=2)
    await world.pass_time(1.1)
    frames = await world.frames(accepted)
    assert error_of(frames) is ErrorCode.POOL_DRAINING
    assert text_of(frames) == "a"


async def test_new_tasks_go_to_the_replica_that_stays(world: World) -> None:
    """LO-ORC-155."""
    leaving = replica(state=ReplicaState.DRAINING, cut_at_ms=world.clock.unix_ms() + 10_000)
    world.see(pool_view(leaving, replica(1), reload=reload_view()), version=2)
    frames = await world.frames(await world.submit())
    assert frames[0].data["replica_id"] == "chat/1"


async def test_an_engine_that_is_ended_at_the_cut_is_no_reset(world: World) -> None:
    """LO-ORC-154: pool_managerd ends it at the same moment."""
    gate = asyncio.Event()
    world.play([Token("a"), gate, Fault.LOST])
    accepted = await world.submit()
    await world.until(accepted, "token")
    world.see(draining(world, 0.5), version=2)
    gate.set()
    assert error_of(await world.frames(accepted)) is ErrorCode.POOL_DRAINING


async def test_a_crash_long_before_the_cut_is_a_reset(world: World) -> None:
    gate = asyncio.Event()
    world.play([Token("a"), gate, Fault.LOST])
    accepted = await world.submit()
    await world.until(accepted, "token")
    world.see(draining(world, 30), version=2)
    gate.set()
    assert error_of(await world.frames(accepted)) is ErrorCode.WORKER_RESET


async def test_a_session_is_cold_once_its_replica_was_reloaded(world: World) -> None:
    """LO-ORC-147."""
    session = new_uuid()
    world.see(pool_view(replica(pid=7)), version=2)
    await world.frames(await world.submit(session_id=session))
    await anyio.wait_all_tasks_blocked()
    assert world.sessions.get(session).replica_id == "chat/0"
    world.see(pool_view(replica(1, pid=8)), version=3, instance_id=TASK_ID)
    assert world.sessions.get(session).replica_id is None
