"""A disk without room: what is new is refused, what was accepted ends, reads go on, it heals."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from contracts.service.failpoints import Failpoints
from orchestratord.errors import StorageFull
from orchestratord.stores.database import Database, open_database
from orchestratord.stores.database_file import LOG_BYTES_KEPT
from orchestratord.stores.disk_reserve import RESERVE_BYTES, reserve_path
from orchestratord.stores.write_ahead_log import log_path
from orchestratord.tests.stores.files import allocated, foreign
from orchestratord.tests.stores.notes import note, notes_in, with_notes
from orchestratord.tests.stores.small_disk import full, mounted

pytestmark = pytest.mark.anyio

HEALED_WITHIN_S = 5.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as directory:
        yield directory


def longer(number: int) -> Callable[[sqlite3.Connection], object]:
    """A write that gives a note 2,000 characters more."""
    sql = "UPDATE notes SET text = text || ? WHERE number = ?"
    return lambda c: c.execute(sql, ("x" * 2_000, number))


async def all_notes(database: Database) -> set[int]:
    rows = await database.read(lambda c: c.execute("SELECT number FROM notes").fetchall())
    return {row["number"] for row in rows}


async def written_until_refused(database: Database, first: int) -> set[int]:
    """Write notes until one is refused: the log may have room of its own for some."""
    written: set[int] = set()
    for number in range(first, first + 2_000):
        try:
            await database.write(note(number))
        except StorageFull:
            return written
        written.add(number)
    raise AssertionError("it was never refused")


async def seconds_until_taken(database: Database, number: int) -> float:
    began = time.monotonic()
    while True:
        try:
            await database.write(note(number))
        except StorageFull:
            assert time.monotonic() - began < HEALED_WITHIN_S
            await anyio.sleep(0.02)
        else:
            return time.monotonic() - began


async def test_a_full_disk_sheds_what_is_new_and_takes_the_ends_of_what_was_accepted(
    disk: Path,
) -> None:
    """LO-ORC-098, LO-ORC-130, LO-ORC-131, LO-ORC-132."""
    path = disk / "orchestratord.sqlite"
    async with open_database(path) as database:
        await with_notes(database)
        accepted = set(range(200))
        for number in accepted:
            await database.write(note(number))
        with full(disk):
            accepted |= await written_until_refused(database, 1_000)
            for number in range(200):
                await database.write(longer(number), essential=True)
            assert await all_notes(database) == accepted
            with pytest.raises(StorageFull):
                await database.write(note(3_001))
            assert allocated(reserve_path(path)) == 0
        assert await seconds_until_taken(database, 3_002) < HEALED_WITHIN_S
        assert allocated(reserve_path(path)) == RESERVE_BYTES
    assert notes_in(path) == accepted | {3_002}
    with foreign(path) as connection:
        lengths = connection.execute("SELECT min(length(text)) FROM notes WHERE number < 200")
        assert lengths.fetchone() == (2_000,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_disk_that_fills_up_behind_its_back_is_seen_without_a_write(disk: Path) -> None:
    path = disk / "orchestratord.sqlite"
    async with open_database(path) as database:
        await with_notes(database)
        with full(disk):
            await anyio.sleep(0.7)
            with pytest.raises(StorageFull):
                await database.write(note(1))
            assert allocated(reserve_path(path)) == RESERVE_BYTES
            await database.write(note(2), essential=True)
    assert notes_in(path) == {2}


async def test_a_start_on_a_full_disk_reads_and_ends_what_was_accepted(disk: Path) -> None:
    """LO-ORC-131."""
    path = disk / "orchestratord.sqlite"
    async with open_database(path) as database:
        await with_notes(database)
        await database.write(note(1))
    with full(disk):
        async with open_database(path) as database:
            assert await all_notes(database) == {1}
            await database.write(longer(1), essential=True)
            with pytest.raises(StorageFull):
                await database.write(note(2))
        reserve_path(path).unlink()
    assert notes_in(path) == {1}


async def test_a_start_without_any_room_is_told_and_damages_nothing(disk: Path) -> None:
    path = disk / "orchestratord.sqlite"
    async with open_database(path) as database:
        await with_notes(database)
    reserve_path(path).unlink()
    before = path.read_bytes()
    with full(disk), pytest.raises(StorageFull):
        async with open_database(path):
            pass
    assert path.read_bytes() == before


async def test_a_commit_that_finds_no_room_is_repeated_for_what_is_essential(path: Path) -> None:
    """LO-ORC-131, LO-ORC-132: the same on a disk that only says that it is full."""
    failpoints = Failpoints.parsed("orchestratord", "db.commit=1*off->1*error(ENOSPC)")
    refused: list[int] = []

    async def new(number: int) -> None:
        try:
            await database.write(note(number))
        except StorageFull:
            refused.append(number)

    async with open_database(path, failpoints) as database:
        await with_notes(database)
        async with anyio.create_task_group() as group:
            for number in (1, 2):
                group.start_soon(new, number)
            group.start_soon(lambda: database.write(note(3), essential=True))
        assert sorted(refused) == [1, 2]
        assert allocated(reserve_path(path)) == 0
        assert await seconds_until_taken(database, 4) < HEALED_WITHIN_S
    assert failpoints.reached["db.commit", "error(ENOSPC)"] == 1
    assert notes_in(path) == {3, 4}


async def test_what_is_shed_does_not_touch_the_database(database: Database) -> None:
    """LO-ORC-130."""
    seen: list[str] = []
    await database._writer.call(lambda connection: connection.set_trace_callback(seen.append))
    await database._writer.call(lambda _: database._reserve.spend())
    with pytest.raises(StorageFull):
        await database.write(lambda c: c.execute("DELETE FROM tasks"))
    assert seen == []


async def test_an_essential_write_too_large_for_what_is_left_fails_no_other(
    database: Database, path: Path
) -> None:
    await with_notes(database)
    pages = await database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await database._writer.call(lambda c: c.execute(f"PRAGMA max_page_count = {pages}"))
    refused = []

    async def large() -> None:
        try:
            await database.write(note(1, "x" * 100_000), essential=True)
        except StorageFull:
            refused.append(1)

    async with anyio.create_task_group() as group:
        group.start_soon(large)
        group.start_soon(lambda: database.write(note(2), essential=True))
    assert refused == [1]
    assert notes_in(path) == {2}


async def test_the_log_is_cut_back_after_a_large_write(path: Path) -> None:
    """LO-ORC-135."""
    async with open_database(path) as database:
        await with_notes(database)
        await database.write(note(1, "x" * 8 * LOG_BYTES_KEPT))
        assert log_path(path).stat().st_size > 8 * LOG_BYTES_KEPT
        for number in range(2, 5):
            await database.write(note(number))
        assert log_path(path).stat().st_size <= LOG_BYTES_KEPT
        for number in range(5, 800):
            await database.write(note(number, "x" * 5_000))
        assert log_path(path).stat().st_size < 1.5 * LOG_BYTES_KEPT
