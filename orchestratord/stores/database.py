"""The SQLite database: one connection writes, one reads, commits are grouped.

A write is a function of a `sqlite3.Connection`.  Writes that arrive while a
commit is on its way to the disk wait together and share the next one, so that
durability (`synchronous=FULL`) costs one fsync per group and not per task.
Each write of a group runs in a savepoint of its own: one that fails is undone
alone, and the others of its group are kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import anyio
from anyio.abc import TaskStatus

from contracts.service.daemon import StateDamaged
from orchestratord.errors import StorageBusy, StorageFull

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]

BUSY_TIMEOUT_MS = 2_000
WRITE_DEADLINE_S = 5.0
PENDING_MAX = 16_384
_BUSY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_FULL_CODES = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_MIGRATIONS = Path(__file__).with_name("migrations")


class _Connection(aiosqlite.Connection):
    """aiosqlite makes one thread hop per statement; this adds one hop per function."""

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function of the connection on the connection's own thread."""
        result: T = await self._execute(function, self._conn, *args)  # type: ignore[no-untyped-call]
        return result

    def thread_ended(self) -> None:
        """Wait for the thread of a connection that failed: it still has to tell the loop."""
        self._thread.join()


@dataclass(slots=True, eq=False)
class _PendingWrite:
    write: Write[Any]
    done: anyio.Event = field(default_factory=anyio.Event)
    begun: bool = False
    result: Any = None
    error: BaseException | None = None


class Database:
    """The open database; made by `open_database`."""

    def __init__(self, writer: _Connection, reader: _Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._pending: list[_PendingWrite] = []
        self._wake = anyio.Event()

    async def write(self, write: Write[T]) -> T:
        """Run `write` in a transaction; returns once it is on disk.

        Raises `StorageBusy` or `StorageFull` when nothing was kept, and
        whatever `write` itself raised.
        """
        if len(self._pending) >= PENDING_MAX:
            raise StorageBusy
        pending = _PendingWrite(write)
        self._pending.append(pending)
        self._wake.set()
        await self._wait(pending)
        if pending.error is not None:
            raise pending.error
        result: T = pending.result
        return result

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a read-only function; it sees every write that has returned."""
        try:
            return await self._reader.call(query)
        except sqlite3.OperationalError as error:
            raise _translated(error) from error

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Commit groups for ever; the caller's task group owns it."""
        task_status.started()
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._pending:
                group, self._pending = self._pending, []
                await self._commit(group)

    async def _wait(self, pending: _PendingWrite) -> None:
        """Wait for the outcome, whoever cancels meanwhile.

        A write that was not begun in time is withdrawn.  Once begun it can no
        longer be taken back, so its outcome is waited for: an unknown one
        would be worse than a late one.  SQLite's busy timeout bounds that.
        """
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(WRITE_DEADLINE_S):
                await pending.done.wait()
            if not pending.begun:
                self._pending.remove(pending)
                raise StorageBusy
            await pending.done.wait()

    async def _commit(self, group: list[_PendingWrite]) -> None:
        for pending in group:
            pending.begun = True
        with anyio.CancelScope(shield=True):
            try:
                await self._writer.call(_apply, group)
            except sqlite3.Error as error:
                for pending in group:
                    pending.error = _translated(error)
            finally:
                for pending in group:
                    pending.done.set()


def _apply(connection: sqlite3.Connection, group: list[_PendingWrite]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for pending in group:
            connection.execute("SAVEPOINT one")
            try:
                pending.result = pending.write(connection)
            except Exception as error:
                if not connection.in_transaction:
                    raise
                pending.error = _translated(error)
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _translated(error: BaseException) -> BaseException:
    """SQLite's way of saying locked or full, in ours; anything else unchanged."""
    if isinstance(error, sqlite3.OperationalError):
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if primary in _BUSY_CODES:
            return StorageBusy()
        if primary in _FULL_CODES:
            return StorageFull()
    return error


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Check, migrate and open the database; raises `StateDamaged` and touches nothing then."""
    async with _connect(path) as writer:
        try:
            await writer.call(_prepare, path)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY_CODES:
                raise StorageBusy from error
            raise StateDamaged(f"{path}: {error}; restore a backup or move it away") from error
        async with _connect(path) as reader:
            await reader.call(_only_read)
            database = Database(writer, reader)
            async with anyio.create_task_group() as group:
                await group.start(database.run)
                yield database
                group.cancel_scope.cancel()


@asynccontextmanager
async def _connect(path: Path) -> AsyncIterator[_Connection]:
    def connector() -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)

    connection = _Connection(connector, iter_chunk_size=64)
    try:
        await connection
    except sqlite3.Error as error:
        await anyio.to_thread.run_sync(connection.thread_ended)
        raise StateDamaged(f"{path}: {error}; it must be a file this user can write") from error
    try:
        yield connection
    finally:
        with anyio.CancelScope(shield=True):
            await connection.close()


def _only_read(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA query_only = ON")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.row_factory = sqlite3.Row
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    steps = sorted(_MIGRATIONS.glob("*.sql"))
    if version > len(steps):
        raise StateDamaged(
            f"{path}: written by a newer version (schema {version}, this one knows"
            f" {len(steps)}); install that version or move the file away"
        )
    if version > 0:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StateDamaged(f"{path}: {verdict}; restore a backup or move it away")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if 0 < version < len(steps):
        _back_up(connection, path.with_name(f"{path.name}.v{version}"))
    for number, step in enumerate(steps[version:], start=version + 1):
        connection.executescript(
            f"BEGIN;\n{step.read_text()}\nPRAGMA user_version = {number};\nCOMMIT;"
        )


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    copy = sqlite3.connect(target)
    try:
        connection.backup(copy)
    finally:
        copy.close()
