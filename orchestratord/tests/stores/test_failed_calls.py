"""The n-th call of the database fails, for every n: nothing told is lost, nothing refused stays."""

from __future__ import annotations

import errno
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from contracts.service.failpoints import Failpoints
from orchestratord.errors import StorageBusy, StorageFull
from orchestratord.stores import database as database_module
from orchestratord.stores.database import Database, open_database
from orchestratord.tests.stores.notes import note, notes_in, with_notes

pytestmark = pytest.mark.anyio

TOLD_AS: dict[str, type[Exception]] = {
    "ENOSPC": StorageFull,
    "EIO": OSError,
    "EBUSY": StorageBusy,
    "EAGAIN": StorageBusy,
}
POINTS = ["db.begin", "db.write", "db.commit", "db.committed"]
CALLS = [("db.begin", 4), ("db.write", 11), ("db.commit", 3), ("db.committed", 3)]
"""Each point, and how often the workload reaches it at the least."""


@dataclass
class Told:
    """What the callers of a workload were told."""

    kept: set[int] = field(default_factory=set)
    refused: dict[int, Exception] = field(default_factory=dict)
    essential: set[int] = field(default_factory=set)


@asynccontextmanager
async def failing(path: Path, spec: str) -> AsyncIterator[tuple[Database, Failpoints]]:
    """A database with a table of notes that fails as `spec` says from now on."""
    async with open_database(path) as database:
        await with_notes(database)
    failpoints = Failpoints.parsed("orchestratord", spec)
    async with open_database(path, failpoints) as database:
        yield database, failpoints


async def write(database: Database, told: Told, number: int, *, essential: bool = False) -> None:
    if essential:
        told.essential.add(number)
    try:
        await database.write(note(number), essential=essential)
    except (StorageFull, StorageBusy, OSError) as error:
        told.refused[number] = error
    else:
        told.kept.add(number)


async def write_twice(database: Database) -> None:
    """A write that fails by itself, after half of its work."""

    def twice(connection: sqlite3.Connection) -> None:
        note(99)(connection)
        raise KeyError("half way")

    with pytest.raises((KeyError, StorageFull, StorageBusy, OSError)):
        await database.write(twice)


async def work(database: Database) -> Told:
    """Three commits alone and one of a group, in which one write fails by itself."""
    told = Told()
    await write(database, told, 1)
    async with anyio.create_task_group() as group:
        for number in (2, 3, 4):
            group.start_soon(write, database, told, number)
        group.start_soon(write_twice, database)
        for number in (5, 6):
            group.start_soon(lambda number: write(database, told, number, essential=True), number)
    await write(database, told, 7, essential=True)
    return told


async def write_when_taken(database: Database, number: int) -> None:
    """Try as a client does: without opening the database again."""
    told = Told()
    with anyio.fail_after(5):
        while number not in told.kept:
            await write(database, told, number)
            await anyio.sleep(0.005)


def nth(point: str, n: int, error: str) -> str:
    before = f"{n - 1}*off->" if n > 1 else ""
    return f"{point}={before}1*error({error})"


@pytest.fixture
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "ROOM_LOOKED_AT_EVERY_S", 0.01)


@pytest.mark.usefixtures("_looks_often")
@pytest.mark.parametrize("error", TOLD_AS)
@pytest.mark.parametrize(("point", "at_least"), CALLS)
async def test_whichever_call_fails_what_was_told_is_true_and_writes_go_on(
    tmp_path: Path, point: str, at_least: int, error: str
) -> None:
    """LO-ORC-133."""
    n = 0
    while True:
        n += 1
        path = tmp_path / f"{n}.sqlite"
        async with failing(path, nth(point, n, error)) as (database, failpoints):
            told = await work(database)
            await write_when_taken(database, 100)
        assert notes_in(path) == told.kept | {100}
        assert {type(refusal) for refusal in told.refused.values()} <= {TOLD_AS[error]}
        if not failpoints.reached[point, f"error({error})"]:
            break
        if error == "ENOSPC":
            assert not told.essential & told.refused.keys()
        if point == "db.committed":
            assert not told.refused
    assert n > at_least


async def test_an_error_of_the_disk_is_that_of_one_write_and_not_of_its_group(path: Path) -> None:
    async with failing(path, "db.write=1*off->1*error(EIO)") as (database, _):
        told = await work(database)
    assert [type(refusal) for refusal in told.refused.values()] == [OSError]
    assert [refusal.errno for refusal in told.refused.values()] == [errno.EIO]  # type: ignore[attr-defined]
    assert len(told.kept) == 6


async def test_an_error_after_the_commit_is_not_told_as_a_refusal(path: Path) -> None:
    """LO-ORC-134."""
    async with failing(path, "db.committed=error(ENOSPC)") as (database, failpoints):
        await database.write(note(1))
        await database.write(note(2))
        assert failpoints.reached["db.committed", "error(ENOSPC)"] == 2
    assert notes_in(path) == {1, 2}


@pytest.mark.parametrize(
    ("error", "told"),
    [("ENOSPC", StorageFull), ("EBUSY", StorageBusy), ("EIO", OSError)],
)
async def test_a_read_that_fails_says_why_and_the_next_one_works(
    path: Path, error: str, told: type[Exception]
) -> None:
    async with failing(path, f"db.read=1*error({error})") as (database, _):
        with pytest.raises(told):
            await database.read(lambda c: c.execute("SELECT 1").fetchone())
        assert await database.read(lambda c: c.execute("SELECT 1").fetchone()[0]) == 1


def told_before(point: str, path: Path) -> set[str]:
    """Ids a child said were written, before it was killed at the 31st hit of a point."""
    module = "orchestratord.tests.stores.acknowledging_writer"
    child = subprocess.run(
        [sys.executable, "-m", module, str(path), f"{point}=30*off->1*kill"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert "failpoint.reached" in child.stderr
    return set(child.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_each_step_of_a_commit_loses_no_write_that_has_returned(
    path: Path, point: str
) -> None:
    """LO-ORC-092."""
    told = told_before(point, path)
    assert told
    async with open_database(path) as database:
        kept = await database.read(lambda c: c.execute("SELECT task_id FROM tasks").fetchall())
    assert told <= {row["task_id"] for row in kept}
