"""Files that are not what they should be, and files that must become newer."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.service.daemon import StateDamaged
from orchestratord.stores import database_file
from orchestratord.stores.database import open_database
from orchestratord.stores.tasks import TaskStore
from orchestratord.tests.stores.files import count, foreign
from orchestratord.tests.stores.rows import id_of, new_task

pytestmark = pytest.mark.anyio


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def refused(path: Path) -> str:
    """What opening says, having left the file as it was."""
    before = content_of(path)
    with pytest.raises(StateDamaged) as damaged:
        async with open_database(path):
            pass
    assert content_of(path) == before
    assert str(path) in str(damaged.value)
    return str(damaged.value)


async def made(path: Path, tasks: int = 60) -> None:
    async with open_database(path) as database:
        for number in range(1, tasks + 1):
            await TaskStore(database).insert(new_task(number, prompt="x" * 2_000))


async def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path) -> None:
    """LO-ORC-097."""
    put(path, b"my diary, not yours " * 500)
    assert "move it away" in await refused(path)


async def test_a_page_that_is_damaged_is_found_and_left_alone(path: Path) -> None:
    await made(path)
    content = bytearray(content_of(path))
    content[4096 * 3 : 4096 * 5] = b"\xa5" * 8192
    put(path, bytes(content))
    assert "move it away" in await refused(path)


async def test_a_file_that_was_cut_is_found_and_left_alone(path: Path) -> None:
    await made(path)
    content = content_of(path)
    put(path, content[: len(content) // 2])
    assert "move it away" in await refused(path)


async def test_the_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    """LO-ORC-097."""
    await made(path, tasks=1)
    with foreign(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "schema 99" in await refused(path)


async def test_a_place_where_no_file_can_be_is_one_clear_line(path: Path) -> None:
    nowhere = path / "no" / "such" / "directory"
    with pytest.raises(StateDamaged, match=f"^{nowhere}: unable to open"):
        async with open_database(nowhere):
            pass


async def test_an_empty_file_is_a_new_database(path: Path) -> None:
    put(path, b"")
    await made(path, tasks=1)
    assert count(path) == 1


def further_step(path: Path, monkeypatch: pytest.MonkeyPatch, sql: str) -> int:
    """Let this version know one migration more; the version there was before."""
    steps = path.with_name("migrations")
    steps.mkdir()
    known = list(database_file._MIGRATIONS.glob("*.sql"))
    for step in known:
        (steps / step.name).write_text(step.read_text())
    (steps / "9999_more.sql").write_text(sql)
    monkeypatch.setattr(database_file, "_MIGRATIONS", steps)
    return len(known)


async def test_a_migration_keeps_the_rows_and_a_copy_of_what_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(path, tasks=3)
    before = further_step(path, monkeypatch, "ALTER TABLE tasks ADD COLUMN note TEXT;")
    async with open_database(path) as database:
        assert await TaskStore(database).last_sequence() == 3
        row = await TaskStore(database).get(id_of(1))
        assert row is not None
        assert row["note"] is None
    with foreign(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (before + 1,)
    assert count(path.with_name(f"{path.name}.v{before}")) == 3


async def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(path, tasks=3)
    sql = "ALTER TABLE tasks ADD COLUMN note TEXT; SELECT no_such;"
    before = further_step(path, monkeypatch, sql)
    with pytest.raises(StateDamaged, match="no such column"):
        async with open_database(path):
            pass
    with foreign(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (before,)
        columns = [row[1] for row in connection.execute("PRAGMA table_info(tasks)")]
    assert "note" not in columns
