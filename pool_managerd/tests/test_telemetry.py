"""Figures of cards: from a file, from NVML, and what is left of them when a source breaks."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from pool_managerd.clock import SystemClock
from pool_managerd.telemetry.file import FileSource
from pool_managerd.telemetry.none import NoSource
from pool_managerd.telemetry.nvml import NvmlSource
from pool_managerd.telemetry.sampler import DeviceSource, Sampler, TelemetrySilent
from test_harness.nvml.build import SimulatedDriver, compiler

pytestmark = pytest.mark.anyio
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler: install gcc")
CARD = {"index": 0, "uuid": "GPU-a", "name": "Card", "total_bytes": 100, "used_bytes": 10}


class Watched:
    """A sampler that runs, and a way to wait for what it shows."""

    def __init__(self, source: DeviceSource) -> None:
        self._changed = anyio.Event()
        self.sampler = Sampler(source, SystemClock(), self._wake)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, seen: Callable[[Sampler], bool]) -> None:
        with anyio.fail_after(15):
            while not seen(self.sampler):
                await self._changed.wait()


@asynccontextmanager
async def sampling(source: DeviceSource) -> AsyncIterator[Watched]:
    async with anyio.create_task_group() as group:
        watched = Watched(source)
        group.start_soon(watched.sampler.run)
        yield watched
        group.cancel_scope.cancel()


def write(path: Path, *cards: dict[str, Any]) -> None:
    path.with_suffix(".new").write_text(json.dumps({"devices": cards}))
    path.with_suffix(".new").rename(path)


async def test_no_source_means_no_cards_and_no_age() -> None:
    async with sampling(NoSource()) as it:
        assert await it.sampler.known() == ()
        assert it.sampler.age_ms() is None


async def test_a_file_is_read_again_at_each_sample(tmp_path: Path) -> None:
    """LO-POOL-040."""
    path = tmp_path / "gpus.json"
    write(path, CARD)
    async with sampling(FileSource(path, sample_ms=50)) as it:
        assert [card.used_bytes for card in await it.sampler.known()] == [10]
        write(path, CARD | {"used_bytes": 20, "processes": [{"pid": 1, "used_bytes": 0}]})
        await it.until(lambda sampler: sampler.devices[0].used_bytes == 20)


@pytest.mark.parametrize("bad", ["{", '{"devices":[{"index":-1}]}', "[" * 100_000])
async def test_a_bad_file_leaves_the_last_figures_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    """LO-POOL-042."""
    monkeypatch.setattr("pool_managerd.telemetry.sampler.STALE_MS", 200)
    path = tmp_path / "gpus.json"
    write(path, CARD)
    async with sampling(FileSource(path, sample_ms=50)) as it:
        before = await it.sampler.known()
        path.write_text(bad)
        await it.until(lambda sampler: (sampler.age_ms() or 0) > 200)
        assert it.sampler.devices == before
        write(path, CARD | {"used_bytes": 30})
        await it.until(lambda sampler: sampler.devices[0].used_bytes == 30)


async def test_a_source_that_has_not_spoken_is_not_taken_for_no_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool_managerd.telemetry.sampler.FIRST_SAMPLE_S", 0.05)
    async with sampling(FileSource(tmp_path / "none", sample_ms=50)) as it:
        with pytest.raises(TelemetrySilent, match=r"gpus.source"):
            await it.sampler.known()


def child(code: str) -> NvmlSource:
    """A source whose child does what `code` does."""
    return NvmlSource(50, [sys.executable, "-c", code], deadline_s=0.5)


LINE = f"{{'devices': [{CARD!r}], 'began_ms': time.monotonic_ns() // 1_000_000}}"
SAY = f"import json, time; print(json.dumps({LINE}), flush=True)"


@pytest.mark.parametrize(
    "ending",
    ["import time; time.sleep(600)", "import os; os.abort()", "print('nonsense', flush=True)"],
    ids=["hangs", "crashes", "babbles"],
)
@pytest.mark.slow
async def test_a_child_that_fails_leaves_figures_and_age_and_is_replaced(
    tmp_path: Path, ending: str
) -> None:
    """LO-POOL-042."""
    count = tmp_path / "starts"
    note = f"open({str(count)!r}, 'a').write('x')"
    async with sampling(child(f"{note}\n{SAY}\n{ending}")) as it:
        figures = await it.sampler.known()
        await it.until(lambda _: len(count.read_text()) >= 2)
        assert it.sampler.devices == figures
        assert it.sampler.age_ms() is not None


async def test_a_machine_without_a_driver_has_no_cards() -> None:
    """LO-POOL-041."""
    async with sampling(child('print(\'{"absent": "no driver"}\', flush=True)')) as it:
        assert await it.sampler.known() == ()
        assert it.sampler.age_ms() is None


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedDriver:
    driver = SimulatedDriver(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    return driver


@needs_compiler
@pytest.mark.slow
async def test_the_real_binding_tells_of_simulated_cards(driver: SimulatedDriver) -> None:
    driver.show(c0_used_mib=1000, c0_util=97, c1_pid=4242)
    async with sampling(NvmlSource(50)) as it:
        big, small = await it.sampler.known()
        assert (big.total_bytes, small.total_bytes) == (24 << 30, 12 << 30)
        assert (big.used_bytes, big.utilization) == (1000 << 20, 0.97)
        assert big.uuid.startswith("GPU-")
        assert (big.temperature_c, big.power_w) == (40, 30)
        assert [process.pid for process in small.processes] == [4242]
        driver.show(c0_lost=1)
        await it.until(lambda sampler: sampler.devices[0].health != "ok")
        assert it.sampler.devices[0].used_bytes is None
        assert it.sampler.devices[1].health == "ok"


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "crash"])
async def test_a_driver_that_breaks_leaves_stale_figures_until_it_heals(
    driver: SimulatedDriver, fault: str
) -> None:
    """LO-POOL-042."""
    driver.show(c0_used_mib=1000)
    async with sampling(NvmlSource(50, deadline_s=1.0)) as it:
        await it.sampler.known()
        driver.show(**{fault: 1})
        await it.until(lambda sampler: (sampler.age_ms() or 0) > 2_000)
        assert it.sampler.devices[0].used_bytes == 1000 << 20
        driver.show(c0_used_mib=2000)
        await it.until(lambda sampler: sampler.devices[0].used_bytes == 2000 << 20)


@needs_compiler
@pytest.mark.slow
async def test_a_driver_that_is_not_loaded_reads_as_no_card(driver: SimulatedDriver) -> None:
    driver.show(init=9)
    async with sampling(NvmlSource(50)) as it:
        assert await it.sampler.known() == ()


@needs_compiler
@pytest.mark.slow
async def test_the_real_binding_tells_of_xids_over_children_and_of_a_card_gone(
    driver: SimulatedDriver,
) -> None:
    """LO-POOL-080, LO-POOL-081, LO-POOL-082."""
    driver.show(c0_used_mib=1000, c0_reserved_mib=400, c0_ecc=2, c1_pid=4242, c1_pid2=4243)
    async with sampling(NvmlSource(50, deadline_s=1.0)) as it:
        big, small = await it.sampler.known()
        assert (big.used_bytes, big.health) == (1000 << 20, "2 memory errors not corrected")
        assert [process.pid for process in small.processes] == [4242, 4243]
        assert (small.xid, small.xid_count) == (None, 0)
        driver.show(c1_xid=31, c1_xid_events=2)
        await it.until(lambda sampler: sampler.devices[1].xid_count == 2)
        driver.show(crash=1)
        await it.until(lambda sampler: (sampler.age_ms() or 0) > 1_000)
        driver.show(c1_xid=79, c1_lost=0)
        await it.until(lambda sampler: sampler.devices[1].xid_count == 3)
        driver.show(c1_lost=1)
        await it.until(lambda sampler: sampler.devices[1].health == "lost")
        driver.show(count=1)
        await it.until(lambda sampler: sampler.devices[0].used_bytes == 300 << 20)
        gone = it.sampler.devices[1]
        assert (gone.name, gone.health, gone.used_bytes) == ("Simulated 12 GiB", "lost", None)
        assert (gone.xid, gone.xid_count) == (79, 3)
        assert sum(it.sampler.xid_errors.values()) == 3


@needs_compiler
@pytest.mark.slow
async def test_a_driver_without_events_is_sampled_all_the_same(driver: SimulatedDriver) -> None:
    driver.show(events=0, c0_xid=79)
    async with sampling(NvmlSource(50)) as it:
        assert [card.xid for card in await it.sampler.known()] == [None, None]


async def test_a_changed_xid_in_a_file_is_a_new_event(tmp_path: Path) -> None:
    """LO-POOL-080."""
    path = tmp_path / "gpus.json"
    write(path, CARD)
    async with sampling(FileSource(path, sample_ms=20)) as it:
        await it.sampler.known()
        for xid, count in ((31, 1), (None, 1), (31, 2), (79, 3)):
            write(path, CARD | {"xid": xid})
            await it.until(
                lambda sampler, wanted=(xid, count): (  # type: ignore[misc]
                    (sampler.devices[0].xid, sampler.devices[0].xid_count) == wanted
                )
            )
        write(path, CARD | {"xid": 79, "xid_count": 9})
        await it.until(lambda sampler: sampler.devices[0].xid_count == 9)
