"""State that was cut, flipped, emptied or half removed: refused in one line, and left as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from contracts.service.daemon import StateDamaged
from orchestratord.stores import write_ahead_log
from orchestratord.stores.database import open_database
from orchestratord.stores.database_file import make_ready
from orchestratord.stores.disk_reserve import DiskReserve, reserve_path
from orchestratord.stores.tasks import TaskStore
from orchestratord.stores.write_ahead_log import index_path, log_path
from orchestratord.tests.stores.files import count, foreign
from orchestratord.tests.stores.rows import new_task

pytestmark = pytest.mark.anyio

TASKS = 40
FLIPPED_BYTES = 64
FRAME_BYTES = 24 + 4096
REFUSED_WITHIN_S = 2.0


def parts(path: Path) -> list[Path]:
    return [path, log_path(path), index_path(path), reserve_path(path)]


def contents(path: Path) -> list[bytes | None]:
    """Of the database and its log; the index is no state, SQLite makes it anew."""
    return [part.read_bytes() if part.exists() else None for part in (path, log_path(path))]


def refused(path: Path) -> str:
    """What opening says, having left everything as it was."""
    before, began = contents(path), time.monotonic()
    with pytest.raises(StateDamaged) as damaged:
        make_ready(path, DiskReserve(path))
    assert time.monotonic() - began < REFUSED_WITHIN_S
    assert contents(path) == before
    line = str(damaged.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    for index in range(at, min(at + FLIPPED_BYTES, len(content))):
        content[index] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)


def rewrite(path: Path, changed: Callable[[bytes], bytes]) -> None:
    path.write_bytes(changed(path.read_bytes()))


def remove(path: Path) -> None:
    path.unlink()


async def fill(path: Path, copied_to: Path | None = None) -> None:
    """Write the tasks, and copy everything before it is closed."""
    async with open_database(path) as database:
        for number in range(1, TASKS + 1):
            await TaskStore(database).insert(new_task(number))
        if copied_to is not None:
            copy(path, copied_to)


def copy(path: Path, target: Path) -> None:
    """Copy what is open, as another process: closing a file here would drop SQLite's locks."""
    target.parent.mkdir(exist_ok=True)
    for part in parts(path):
        subprocess.run(["cp", part, target.with_name(part.name)], check=True)


@pytest.fixture
def closed(path: Path) -> Path:
    """A database that was closed as it should be: one file."""
    anyio.run(fill, path)
    return path


@pytest.fixture
def killed(path: Path, tmp_path: Path) -> Path:
    """A database as a kill leaves it: the tasks are in the log."""
    (tmp_path / "alive").mkdir()
    anyio.run(fill, tmp_path / "alive" / path.name, path)
    return path


async def tasks_after_opening(path: Path) -> int:
    async with open_database(path):
        return count(path)


async def test_a_kill_leaves_what_can_be_opened(killed: Path) -> None:
    assert log_path(killed).stat().st_size > TASKS * FRAME_BYTES
    assert await tasks_after_opening(killed) == TASKS


@pytest.mark.parametrize("at", [0, 16, 40, 60, 100, 4096, 8192])
def test_64_flipped_bytes_are_found(closed: Path, at: int) -> None:
    """LO-ORC-097."""
    flip(closed, at)
    refused(closed)


def test_64_flipped_bytes_are_found_wherever_they_are_read(closed: Path) -> None:
    """LO-ORC-097: what is not refused lay in free space, and nothing of it is lost."""
    good = closed.read_bytes()
    with foreign(closed) as connection:
        rows = connection.execute("SELECT * FROM tasks").fetchall()
    found = 0
    for at in range(0, len(good), 7 * FLIPPED_BYTES):
        closed.write_bytes(good)
        flip(closed, at)
        try:
            make_ready(closed, DiskReserve(closed))
        except StateDamaged:
            found += 1
            continue
        with foreign(closed) as connection:
            assert connection.execute("SELECT * FROM tasks").fetchall() == rows
    assert found > len(good) // FLIPPED_BYTES // 40


@pytest.mark.parametrize(
    ("there", "instead", "said"),
    [(b'"model"', bytes(7), "not JSON"), (b'"once"', b'"\xff\xff\xff\xff"', "not UTF-8")],
    ids=["zeros", "no text"],
)
def test_a_request_that_cannot_be_read_is_found(
    closed: Path, there: bytes, instead: bytes, said: str
) -> None:
    """LO-ORC-097: no page says that it is damaged."""
    rewrite(closed, lambda content: content.replace(there, instead, 1))
    assert said in refused(closed)


def test_damage_beside_a_log_leaves_both_as_they_were(killed: Path) -> None:
    """LO-ORC-097: pages that the log replaces are not read."""
    good, found = killed.read_bytes(), 0
    for at in range(0, len(good), 4096):
        killed.write_bytes(good)
        flip(killed, at)
        before = contents(killed)
        try:
            make_ready(killed, DiskReserve(killed))
        except StateDamaged:
            found += 1
        assert contents(killed) == before
    assert found > 0


def test_a_newer_schema_beside_a_log_leaves_both_as_they_were(killed: Path) -> None:
    """LO-ORC-097."""
    connection_is_killed = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA user_version = 99'); os.kill(os.getpid(), 9)"
    )
    child = subprocess.run([sys.executable, "-c", connection_is_killed, killed], check=False)
    assert child.returncode == -signal.SIGKILL
    assert "schema 99" in refused(killed)


@pytest.mark.parametrize("version", [-1, 0])
def test_tables_under_a_schema_that_is_none_of_ours_are_left_alone(
    closed: Path, version: int
) -> None:
    with foreign(closed) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    assert "none of ours" in refused(closed)


@pytest.mark.parametrize(
    "length",
    [0, 31, 32, 32 + FRAME_BYTES, 32 + 7 * FRAME_BYTES + 100],
    ids=["all", "half a header", "all frames", "all but one frame", "within a frame"],
)
def test_a_log_that_was_cut_is_found(killed: Path, length: int) -> None:
    """LO-ORC-136."""
    cut(log_path(killed), length)
    assert "lacks writes that were acknowledged" in refused(killed)
    assert "lacks writes that were acknowledged" in refused(killed)


@pytest.mark.parametrize("missing", [1, 2, 100, 4_095, 4_096])
def test_a_database_whose_end_was_cut_off_is_found(closed: Path, missing: int) -> None:
    """LO-ORC-097: a last page that is short by a byte reads as another number."""
    cut(closed, closed.stat().st_size - missing)
    refused(closed)


def test_a_log_that_lost_its_last_frame_is_found(killed: Path) -> None:
    """LO-ORC-136."""
    log = log_path(killed)
    cut(log, log.stat().st_size - FRAME_BYTES)
    refused(killed)


@pytest.mark.parametrize("at", [0, 20, 100, 32 + 5 * FRAME_BYTES + 50, -FLIPPED_BYTES])
def test_a_log_with_flipped_bytes_is_found(killed: Path, at: int) -> None:
    """LO-ORC-136."""
    log = log_path(killed)
    flip(log, at if at >= 0 else log.stat().st_size + at)
    refused(killed)


def test_a_log_too_long_to_be_read_in_whole_is_found_when_its_end_is_not_right(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead_log, "FRAMES_READ_MAX", 1)
    log = log_path(killed)
    flip(log, log.stat().st_size - FRAME_BYTES)
    refused(killed)


def test_a_log_that_is_gone_is_found(killed: Path) -> None:
    """LO-ORC-136."""
    log_path(killed).unlink()
    assert str(index_path(killed)) in refused(killed)


async def test_a_log_that_was_cut_opens_again_once_its_index_is_removed(killed: Path) -> None:
    log = log_path(killed)
    cut(log, log.stat().st_size // 2)
    refused(killed)
    index_path(killed).unlink()
    assert 0 < await tasks_after_opening(killed) < TASKS


@pytest.mark.parametrize("tail", [b"\0" * 24, b"\x5a" * 3_000, b"\x5a" * 3 * FRAME_BYTES])
async def test_a_tail_that_was_never_committed_is_no_damage(killed: Path, tail: bytes) -> None:
    """LO-ORC-092: a kill while frames are written leaves one."""
    with log_path(killed).open("ab") as file:
        file.write(tail)
    assert await tasks_after_opening(killed) == TASKS


def torn(index: bytes) -> bytes:
    """A kill between the two copies of its header."""
    return index[:48] + bytes(48) + index[96:]


def miscounted(index: bytes) -> bytes:
    """One frame more in both copies, and the checksum of what was before."""
    more = (int.from_bytes(index[16:20], sys.byteorder) + 1).to_bytes(4, sys.byteorder)
    header = index[:16] + more + index[20:48]
    return header + header + index[96:]


@pytest.mark.parametrize(
    "changed",
    [torn, miscounted, lambda _: b"", lambda _: bytes(32_768), lambda _: b"\x11" * 32_768],
    ids=["torn", "miscounted", "empty", "zeros", "words"],
)
async def test_an_index_that_is_not_whole_is_not_believed(
    killed: Path, changed: Callable[[bytes], bytes]
) -> None:
    cut(log_path(killed), log_path(killed).stat().st_size // 2)
    rewrite(index_path(killed), changed)
    assert 0 < await tasks_after_opening(killed) < TASKS


async def test_a_log_that_is_in_the_file_already_may_be_gone(path: Path, tmp_path: Path) -> None:
    """A kill at the end of a close leaves the index alone."""
    target = tmp_path / "killed" / path.name
    async with open_database(path) as database:
        await TaskStore(database).insert(new_task(1))
        await database._writer.call(lambda c: c.execute("PRAGMA wal_checkpoint").fetchall())
        copy(path, target)
    remove(log_path(target))
    assert await tasks_after_opening(target) == 1


async def test_an_index_that_is_older_than_the_log_is_not_believed(
    path: Path, tmp_path: Path
) -> None:
    """A power failure may bring back an old page of it."""
    old, new = tmp_path / "old" / path.name, tmp_path / "new" / path.name
    async with open_database(path) as database:
        store = TaskStore(database)
        await store.insert(new_task(1))
        copy(path, old)
        await database._writer.call(
            lambda c: c.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        )
        await store.insert(new_task(2))
        copy(path, new)
    index_path(old).rename(index_path(new))
    assert await tasks_after_opening(new) == 2


def test_an_emptied_file_is_not_taken_for_a_new_one(closed: Path) -> None:
    """LO-ORC-137."""
    closed.write_bytes(b"")
    assert f"remove {closed} to begin anew" in refused(closed)


def test_an_emptied_file_may_be_removed_to_begin_anew(closed: Path) -> None:
    closed.unlink()
    assert anyio.run(tasks_after_opening, closed) == 0


@pytest.mark.parametrize("removed", [False, True], ids=["emptied", "removed"])
def test_a_log_without_its_database_is_not_thrown_away(killed: Path, removed: bool) -> None:
    """LO-ORC-137."""
    killed.unlink()
    reserve_path(killed).unlink()
    if not removed:
        killed.write_bytes(b"")
    assert str(log_path(killed)) in refused(killed)


def test_a_backup_beside_an_emptied_file_is_pointed_at(path: Path) -> None:
    """LO-ORC-137."""
    path.write_bytes(b"")
    backup = path.with_name(f"{path.name}.v1")
    backup.write_bytes(b"SQLite format 3\0")
    assert str(backup) in refused(path)


def test_a_kill_during_the_very_first_write_is_recovered_from(path: Path) -> None:
    half_written = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.executescript('PRAGMA cache_size = 1; BEGIN; CREATE TABLE half (x);');"
        "c.executemany('INSERT INTO half VALUES (?)', [('x' * 4000,)] * 99);"
        "os.kill(os.getpid(), 9)"
    )
    child = subprocess.run([sys.executable, "-c", half_written, path], check=False)
    assert child.returncode == -signal.SIGKILL
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0
    assert anyio.run(tasks_after_opening, path) == 0
