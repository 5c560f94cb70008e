"""Fresh samples, cards that vanish, and waiting for memory, over figures a test gives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from contracts.pools import DeviceSample, DeviceView
from pool_managerd.domain.devices import is_lost
from pool_managerd.domain.vram import ReplicaMemory, memory_mark
from pool_managerd.telemetry.none import NoSource
from pool_managerd.telemetry.sampler import Sampler, Take, TelemetrySilent
from pool_managerd.vram_return import memory_back

pytestmark = pytest.mark.anyio
GIB = 1 << 30
UUIDS = ("GPU-a",)


def card(used: int = 0, uuid: str = "GPU-a", **fields: int) -> DeviceView:
    known = {"index": 0, "uuid": uuid, "name": "Card", "total_bytes": 24 * GIB, "used_bytes": used}
    return DeviceView.model_validate(known | fields)


class Told:
    """A source that gives what a test says, and its clock."""

    def __init__(self) -> None:
        self.now = 1000
        self._said: list[tuple[DeviceSample | None, int]] = []
        self._more = anyio.Event()

    def now_ms(self) -> int:
        return self.now

    def unix_ms(self) -> int:
        return self.now

    async def run(self, take: Take) -> None:
        while True:
            more = self._more = anyio.Event()
            for sample, began_ms in self._said:
                take(sample, began_ms)
            self._said.clear()
            await more.wait()

    def say(self, began_ms: int, *cards: DeviceView) -> None:
        self._give(DeviceSample(devices=cards), began_ms)

    def say_absent(self, began_ms: int) -> None:
        self._give(None, began_ms)

    def _give(self, sample: DeviceSample | None, began_ms: int) -> None:
        self._said.append((sample, began_ms))
        self._more.set()


class World:
    """A running sampler over `Told`."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.sampler = Sampler(told, told, lambda: None)


@asynccontextmanager
async def sampled() -> AsyncIterator[World]:
    world = World(Told())
    async with anyio.create_task_group() as group:
        group.start_soon(world.sampler.run)
        yield world
        group.cancel_scope.cancel()


async def test_a_sample_begun_before_it_was_asked_for_is_not_fresh() -> None:
    """LO-POOL-084."""
    async with sampled() as world:
        world.told.say(999, card(1))
        world.told.say(1000, card(2))
        world.told.say(1001, card(3))
        assert [device.used_bytes for device in await world.sampler.next_sample(5)] == [3]


async def test_a_source_that_stopped_is_waited_for_until_the_deadline() -> None:
    async with sampled() as world:
        world.told.say(999, card(1))
        with pytest.raises(TelemetrySilent, match=r"0\.05 s"):
            await world.sampler.next_sample(0.05)


async def test_where_there_are_no_cards_nothing_is_waited_for() -> None:
    sampler = Sampler(NoSource(), Told(), lambda: None)
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        assert await sampler.next_sample(5) == ()
        group.cancel_scope.cancel()


async def test_a_card_that_vanished_is_shown_lost_until_it_is_back() -> None:
    """LO-POOL-081."""
    async with sampled() as world:
        world.told.say(1001, card(1), card(5, uuid="GPU-b", xid=79, xid_count=2))
        world.told.say(1002, card(1))
        world.told.now = 1001
        first, gone = await world.sampler.next_sample(5)
        assert not is_lost(first)
        assert (gone.uuid, is_lost(gone), gone.used_bytes) == ("GPU-b", True, None)
        assert (gone.xid, gone.xid_count) == (79, 2)
        world.told.say_absent(1003)
        world.told.now = 1002
        assert all(map(is_lost, await world.sampler.next_sample(5)))
        world.told.say(1004, card(1), card(6, uuid="GPU-b", xid=13, xid_count=3))
        world.told.now = 1003
        assert not any(map(is_lost, await world.sampler.next_sample(5)))
        assert dict(world.sampler.xid_errors) == {("GPU-b", "79"): 2, ("GPU-b", "13"): 1}


GROWN = ReplicaMemory(
    UUIDS,
    before=memory_mark([card(GIB)], UUIDS),
    stopping=memory_mark([card(9 * GIB)], UUIDS),
)


async def test_memory_is_waited_for_by_fresh_samples_alone() -> None:
    """LO-POOL-084."""
    async with sampled() as world:
        world.told.say(1000, card(GIB))
        world.told.say(1001, card(9 * GIB))
        async with anyio.create_task_group() as group:
            ends: list[str | None] = []

            async def wait() -> None:
                ends.append(await memory_back(world.sampler, GROWN, 5))

            group.start_soon(wait)
            with anyio.fail_after(5):
                while not world.sampler.devices or world.sampler.devices[0].used_bytes == GIB:
                    await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            assert ends == [], "an old sample was believed"
            world.told.say(1002, card(GIB))
        assert ends == [None]


async def test_memory_that_stays_is_told_with_card_and_amount() -> None:
    """LO-POOL-085."""
    async with sampled() as world:
        world.told.say(1001, card(9 * GIB))
        said = await memory_back(world.sampler, GROWN, 0.1)
        assert said is not None
        assert "8192 MiB on GPU 0 (Card) still held 0.1 s" in said


async def test_silent_telemetry_is_told_and_a_replica_on_the_cpu_waits_for_nothing() -> None:
    """LO-POOL-085."""
    async with sampled() as world:
        assert "not known" in str(await memory_back(world.sampler, GROWN, 0.05))
        cpu = ReplicaMemory((), memory_mark([], ()))
        assert await memory_back(world.sampler, cpu, 0.05) is None
