"""Commits that are shared, locks of others, and kills."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from orchestratord.errors import StorageBusy
from orchestratord.stores import database as database_module
from orchestratord.stores.database import Database, open_database
from orchestratord.stores.group_commit import Write
from orchestratord.stores.tasks import TaskStore
from orchestratord.tests.stores.files import count, foreign
from orchestratord.tests.stores.notes import note, notes_in, with_notes
from orchestratord.tests.stores.rows import id_of, new_task

pytestmark = pytest.mark.anyio


async def statements_of(database: Database) -> list[str]:
    """A list that fills with every statement of the writing connection."""
    seen: list[str] = []
    await database._writer.call(lambda connection: connection.set_trace_callback(seen.append))
    return seen


async def test_writes_that_arrive_during_a_commit_share_the_next_one(
    database: Database, store: TaskStore, path: Path
) -> None:
    statements = await statements_of(database)
    held = threading.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(database.write, lambda _: held.wait(10))
        await anyio.wait_all_tasks_blocked()
        for number in range(1, 33):
            group.start_soon(store.insert, new_task(number))
        await anyio.wait_all_tasks_blocked()
        held.set()
    assert statements.count("COMMIT") == 2
    assert count(path) == 32


async def test_a_write_that_fails_is_undone_alone(database: Database, path: Path) -> None:
    store, failures = TaskStore(database), []

    async def insert(number: int, sequence: int) -> None:
        task = new_task(sequence)
        try:
            await store.insert(
                type(task)(
                    **{name: getattr(task, name) for name in task.__slots__}
                    | {"task_id": id_of(number)}
                )
            )
        except sqlite3.IntegrityError as error:
            failures.append(str(error))

    statements = await statements_of(database)
    async with anyio.create_task_group() as group:
        for number in range(1, 9):
            group.start_soon(insert, number, 5 if number == 6 else number)
    assert failures == ["UNIQUE constraint failed: tasks.sequence"]
    assert count(path) == 7
    assert statements.count("COMMIT") == 1


async def test_writes_of_one_group_that_fail_are_each_told_their_own_reason(
    database: Database, path: Path
) -> None:
    told: dict[int, str] = {}

    async def insert(number: int) -> None:
        def write(connection: sqlite3.Connection) -> None:
            note(number)(connection)
            if number % 3 == 0:
                raise KeyError(f"not {number}")

        try:
            await database.write(write)
        except KeyError as error:
            told[number] = str(error)

    await with_notes(database)
    async with anyio.create_task_group() as group:
        for number in range(1, 10):
            group.start_soon(insert, number)
    assert told == {number: f"'not {number}'" for number in (3, 6, 9)}
    assert notes_in(path) == {1, 2, 4, 5, 7, 8}


async def test_a_write_that_ends_the_transaction_of_its_group_fails_alone(
    database: Database, path: Path
) -> None:
    refused: list[int] = []

    def breaking(connection: sqlite3.Connection) -> None:
        note(2)(connection)
        connection.execute("ROLLBACK")
        raise KeyError("broken")

    async def write(write: Write[object], number: int) -> None:
        try:
            await database.write(write)
        except KeyError:
            refused.append(number)

    await with_notes(database)
    async with anyio.create_task_group() as group:
        group.start_soon(write, note(1), 1)
        group.start_soon(write, breaking, 2)
        group.start_soon(write, note(3), 3)
    assert refused == [2]
    assert notes_in(path) == {1, 3}


async def test_what_a_failing_write_did_before_is_undone_too(
    database: Database, path: Path
) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (x)")
        raise KeyError("half way")

    with pytest.raises(KeyError, match="half way"):
        await database.write(half)
    with foreign(path) as connection, pytest.raises(sqlite3.OperationalError, match="no such"):
        connection.execute("SELECT * FROM half")


async def test_a_read_sees_every_write_that_has_returned(
    database: Database, store: TaskStore
) -> None:
    for number in range(1, 20):
        await store.insert(new_task(number))
        assert await store.last_sequence() == number


async def test_the_reading_connection_cannot_write(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await database.read(lambda connection: connection.execute("DELETE FROM tasks"))


async def test_a_locked_file_refuses_and_keeps_nothing(
    store: TaskStore, database: Database, path: Path
) -> None:
    """LO-ORC-099."""
    await database._writer.call(lambda c: c.execute("PRAGMA busy_timeout = 1"))
    with foreign(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageBusy):
            await store.insert(new_task(1))
        assert await store.get(id_of(1)) is None
        other.execute("ROLLBACK")
    assert count(path) == 0
    await store.insert(new_task(1))
    assert count(path) == 1


async def test_a_write_that_cannot_begin_in_time_is_withdrawn(
    database: Database, store: TaskStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WRITE_DEADLINE_S", 0.01)
    held = threading.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(database.write, lambda _: held.wait(10))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(StorageBusy):
            await store.insert(new_task(1))
        held.set()
    await store.insert(new_task(2))
    assert await store.get(id_of(1)) is None
    assert count(path) == 1


async def test_a_write_that_has_begun_is_waited_for_whoever_cancels(
    database: Database, path: Path
) -> None:
    begun, held = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> str:
        connection.execute("CREATE TABLE slow (x)")
        begun.set()
        held.wait(10)
        return "kept"

    results = []

    async def writer() -> None:
        results.append(await database.write(slow))

    async with anyio.create_task_group() as group:
        group.start_soon(writer)
        await anyio.to_thread.run_sync(begun.wait)
        group.cancel_scope.cancel()
        held.set()
    assert results == ["kept"]


async def test_writes_beyond_the_bound_are_refused_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "PENDING_MAX", 0)
    with pytest.raises(StorageBusy):
        await database.write(lambda _: None)


@pytest.mark.slow
async def test_a_lock_of_another_process_is_told_in_time_and_stops_nothing_else(
    store: TaskStore, path: Path
) -> None:
    """LO-ORC-099, LO-SYS-051."""
    slowest: list[float] = []

    async def refused(number: int) -> None:
        await anyio.sleep(number * 0.4)
        began = anyio.current_time()
        with pytest.raises(StorageBusy):
            await store.insert(new_task(number))
        slowest.append(anyio.current_time() - began)

    async def watch_loop(gaps: list[float]) -> None:
        while True:
            began = anyio.current_time()
            await anyio.sleep(0.01)
            gaps.append(anyio.current_time() - began)

    gaps: list[float] = []
    with foreign(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with anyio.create_task_group() as watcher:
            watcher.start_soon(watch_loop, gaps)
            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(refused, number)
            assert await store.get(id_of(1)) is None
            watcher.cancel_scope.cancel()
    assert max(slowest) < 5
    assert max(gaps) < 0.25
    assert count(path) == 0


async def test_every_commit_waits_for_the_disk(database: Database) -> None:
    def settings_of(connection: sqlite3.Connection) -> tuple[str, int]:
        journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
        return journal, connection.execute("PRAGMA synchronous").fetchone()[0]

    assert await database.write(settings_of) == ("wal", 2)


def told_before_the_kill(path: Path, acknowledged: int) -> set[str]:
    """Ids a child said were written, before it was killed in the middle of writing more."""
    child = subprocess.Popen(
        [sys.executable, "-m", "orchestratord.tests.stores.acknowledging_writer", str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    told = [child.stdout.readline().strip() for _ in range(acknowledged)]
    child.send_signal(signal.SIGKILL)
    told += child.stdout.read().splitlines()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    return {line for line in told if len(line) == len(id_of(0))}


@pytest.mark.slow
@pytest.mark.parametrize("acknowledged", [1, 400])
async def test_kill_9_loses_no_write_that_has_returned(path: Path, acknowledged: int) -> None:
    """LO-ORC-001, LO-ORC-092."""
    told = told_before_the_kill(path, acknowledged)
    assert len(told) >= acknowledged
    async with open_database(path) as database:
        kept = await database.read(lambda c: c.execute("SELECT task_id FROM tasks").fetchall())
    assert told <= {row["task_id"] for row in kept}
