"""Figures in the stream: while somebody follows, with ids that survive a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from contracts.events import MetricsEvent
from contracts.ids import new_uuid
from orchestratord.domain.budgets import Limits
from orchestratord.domain.decisions import QueueRules
from orchestratord.domain.sessions import SessionTerms
from orchestratord.runtime.admissions import Accepted
from orchestratord.runtime.attempt import EVENT_ID_SLACK
from orchestratord.runtime.metrics_feed import IDS_RESERVED
from orchestratord.tests.builders import GIB, TASK_ID, device, replica
from orchestratord.tests.runtime.frames import Frame, parse
from orchestratord.tests.runtime.world import END, World, world_at
from orchestratord.tests.stores.rows import id_of
from worker_adapters.base import Finished, Progress, Token
from worker_adapters.scripted import Fault

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def followed(world: World, task: Accepted | str) -> AsyncIterator[list[Frame]]:
    """A reader beside the test; what it has been sent is in the list."""
    got: list[Frame] = []

    async def read() -> None:
        async with aclosing(world.log(task).follow(0)) as log:
            async for batch in log:
                got.extend(parse(batch))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        yield got
        group.cancel_scope.cancel()


async def frame(world: World, got: list[Frame]) -> dict[str, Any]:
    """Let a second pass; the figures that were due."""
    world.clock.advance(1)
    await world.feed.tick(world.clock.now())
    await anyio.wait_all_tasks_blocked()
    assert got[-1].name == "metrics"
    MetricsEvent.model_validate(got[-1].data, strict=False)
    return dict(got[-1].data)


async def test_only_a_task_that_is_followed_is_fed(path: Path) -> None:
    async with world_at(path, slots=0) as world:
        first, second = await world.submit(), await world.submit()
        async with followed(world, second) as got:
            await frame(world, got)
        await world.feed.tick(world.clock.now() + 9)
        assert (world.log(first).last_id, world.log(second).last_id) == (0, 1)


async def test_a_waiting_task_is_told_its_place_and_its_start(path: Path) -> None:
    """LO-ORC-148."""
    async with world_at(path) as world:
        gate = asyncio.Event()
        world.play([Token("a"), gate, Token("b"), Finished("stop", 1, 11, 0)])
        learned = await world.submit(max_tokens=11)
        await world.until(learned, "token")
        world.clock.advance(10)
        gate.set()
        await world.frames(learned)
        await anyio.wait_all_tasks_blocked()
        world.play([Token("a"), Fault.SILENT])
        await world.until(await world.submit(max_tokens=11), "token")
        ahead = await world.submit(max_tokens=11)
        late = await world.submit(max_tokens=11, deadline_ms=100_000)
        async with followed(world, late) as got:
            figures = await frame(world, got)
            assert (figures["queue_depth"], figures["queue_position"]) == (2, 1)
            assert figures["predicted_start_ms"] == pytest.approx(20_000, rel=0.2)
            assert 0 < figures["on_time_probability"] < 1
            assert "tokens_out" not in figures
            await world.dispatcher.cancel(ahead.task_id)
            figures = await frame(world, got)
            assert (figures["queue_depth"], figures["queue_position"]) == (1, 0)
            assert figures["predicted_start_ms"] == pytest.approx(10_000, rel=0.2)


async def test_a_running_task_is_told_its_pace_its_cache_and_its_cards(path: Path) -> None:
    """LO-ORC-148."""
    session = new_uuid()
    terms = SessionTerms(600_000, 8, Limits(tokens=100))
    async with world_at(path, terms=terms, slots=0) as world:
        cards = (device("gpu-a", 24, 6), device("gpu-b", 12, 1))
        world.serve(replica(devices=("gpu-a",)), devices=cards)
        world.play([Progress(8, 6, 8), Token("a"), Token("b"), Fault.SILENT])
        accepted = await world.submit(session_id=session)
        async with followed(world, accepted) as got:
            figures = await frame(world, got)
        assert (figures["tokens_out"], figures["kv_warmth"], figures["kv_migrated"]) == (
            2,
            0.75,
            False,
        )
        assert figures["on_time_probability"] == 1
        assert "queue_position" not in figures
        assert figures["budgets"]["tokens"]["reserved"] > 0
        assert figures["gpu"] == [
            {
                "device": "gpu-a",
                "utilization": None,
                "vram_used_bytes": 6 * GIB,
                "vram_total_bytes": 24 * GIB,
            }
        ]


@pytest.mark.parametrize("how", ["expired", "canceled", "dropped"])
async def test_a_followed_task_that_has_just_left_the_line_is_fed_no_more(
    path: Path, how: str
) -> None:
    """LO-SYS-026: what it would be told of is gone, and no loop dies of it."""
    async with world_at(path, slots=0, rules=QueueRules(1, "drop-lru")) as world:
        await world.submit(id_of(1), priority="batch", deadline_ms=5_000)
        async with followed(world, id_of(1)) as got:
            await frame(world, got)
            world.clock.advance(5)
            match how:
                case "expired":
                    world.dispatcher.pump()
                case "canceled":
                    world.group.start_soon(world.dispatcher.cancel, id_of(1))
                    await anyio.lowlevel.checkpoint()
                case "dropped":
                    await world.submit(id_of(2))
            await world.feed.tick(world.clock.now())
            await world.frames(id_of(1))
            await anyio.wait_all_tasks_blocked()
        assert [f.name for f in got] == ["metrics", "error"]


async def test_frames_come_at_their_interval_and_not_after_the_end(path: Path) -> None:
    async with world_at(path) as world:
        world.play([Token("a"), gate := asyncio.Event(), END])
        accepted = await world.submit()
        async with followed(world, accepted) as got:
            for _ in range(20):
                world.clock.advance(0.1)
                await world.feed.tick(world.clock.now())
            await anyio.wait_all_tasks_blocked()
            assert [f.name for f in got].count("metrics") == 2
            gate.set()
            await world.frames(accepted)
            world.clock.advance(5)
            await world.feed.tick(world.clock.now())
        assert got[-1].name == "end"
        assert [f.id for f in got] == list(range(1, len(got) + 1))


async def test_ids_of_a_waiting_task_rise_after_a_crash(path: Path) -> None:
    """LO-ORC-072: a reader that comes back with an id it has seen goes on from there."""
    async with world_at(path, slots=0) as world:
        await world.submit(TASK_ID)
        async with followed(world, TASK_ID) as got:
            for _ in range(3):
                await frame(world, got)
    async with world_at(path, slots=0, recover=True) as world:
        assert world.log(TASK_ID).last_id >= got[-1].id  # type: ignore[operator]
        assert world.log(TASK_ID).keeps_all_after(3)
        world.play([END])
        world.serve(replica())
        assert [f.name for f in await world.frames(TASK_ID)] == ["started", "end"]


async def test_ids_go_on_without_a_gap_after_a_clean_stop(path: Path) -> None:
    """LO-ORC-072."""
    async with world_at(path, slots=0) as world:
        await world.submit(TASK_ID)
        async with followed(world, TASK_ID) as got:
            for _ in range(3):
                await frame(world, got)
            await world.stop(0)
    async with world_at(path, slots=0, recover=True) as world:
        world.play([END])
        world.serve(replica())
        assert [f.id for f in await world.frames(TASK_ID)] == [4, 5]


async def test_a_frame_due_while_the_daemon_stops_takes_no_id_of_the_next_life(path: Path) -> None:
    """LO-ORC-072: its reader would wait for an event it believes to have seen."""
    async with world_at(path, slots=0) as world:
        await world.submit(TASK_ID)
        async with followed(world, TASK_ID) as got:
            await frame(world, got)
            world.clock.advance(1)
            async with anyio.create_task_group() as group:
                group.start_soon(world.stop, 0)
                for _ in range(3):
                    await anyio.lowlevel.checkpoint()
                    with anyio.move_on_after(0.01):
                        await world.feed.tick(world.clock.now())
            await anyio.wait_all_tasks_blocked()
        last = max(one.id for one in got if one.id is not None)
    async with world_at(path, slots=0, recover=True) as world:
        world.play([END])
        world.serve(replica())
        assert [f.id for f in await world.frames(TASK_ID)] == [last + 1, last + 2]


async def test_frames_never_use_up_the_ids_that_tokens_need(path: Path) -> None:
    """LO-ORC-072."""
    async with world_at(path) as world:
        world.play([Token("a"), gate := asyncio.Event(), *[Token("b")] * 9, END])
        accepted = await world.submit(max_tokens=10)
        await world.until(accepted, "token")
        reserved = (await world.row(accepted))["last_event_id"]
        assert reserved == 1 + 10 + EVENT_ID_SLACK
        async with followed(world, accepted) as got:
            for _ in range(EVENT_ID_SLACK + 50):
                await frame(world, got)
            assert (await world.row(accepted))["last_event_id"] > reserved
            gate.set()
            frames = await world.frames(accepted)
        assert frames[-1].id is not None
        assert frames[-1].id <= reserved + IDS_RESERVED + 60


async def test_a_disk_that_takes_nothing_stops_no_stream(path: Path) -> None:
    async with world_at(path, slots=0) as world:
        await world.submit(id_of(1))
        async with followed(world, id_of(1)) as got:
            with world.locked():
                world.clock.advance(1)
                await world.feed.tick(world.clock.now())
            assert got == []
            await frame(world, got)
