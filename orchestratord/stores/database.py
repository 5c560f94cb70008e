"""The SQLite database: one connection writes, one reads, commits are grouped.

A write is a function of a `sqlite3.Connection`.  Writes that arrive while a
commit is on its way to the disk wait together and share the next one, so that
durability (`synchronous=FULL`) costs one fsync per group and not per task.

On a full disk reads go on, what is new is refused, and what ends or marks tasks
that were accepted before, an essential write, goes into the room of the reserve.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import anyio
from anyio.abc import TaskStatus

from contracts.service.daemon import StateDamaged
from contracts.service.failpoints import Failpoints
from orchestratord.errors import StorageBusy
from orchestratord.stores.database_file import BUSY_TIMEOUT_S, configure, make_ready
from orchestratord.stores.disk_reserve import DiskReserve
from orchestratord.stores.group_commit import GroupCommit, PendingWrite, Write, translated

T = TypeVar("T")

WRITE_DEADLINE_S = 5.0
PENDING_MAX = 16_384
ROOM_LOOKED_AT_EVERY_S = 0.5


class _Connection(aiosqlite.Connection):
    """aiosqlite makes one thread hop per statement; this adds one hop per function."""

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function of the connection on the connection's own thread."""
        result: T = await self._execute(function, self._conn, *args)  # type: ignore[no-untyped-call]
        return result

    def thread_ended(self) -> None:
        """Wait for the thread of a connection that failed: it still has to tell the loop."""
        self._thread.join()


class Database:
    """The open database; made by `open_database`."""

    def __init__(
        self,
        writer: _Connection,
        reader: _Connection,
        reserve: DiskReserve,
        failpoints: Failpoints,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._reserve = reserve
        self._failpoints = failpoints
        self._commits = GroupCommit(reserve, failpoints)
        self._pending: list[PendingWrite] = []
        self._wake = anyio.Event()

    async def write(self, write: Write[T], *, essential: bool = False) -> T:
        """Run `write` in a transaction; returns once it is on disk.

        `write` may be run more than once, so it must change nothing but the
        database.  On a full disk only what is `essential` is tried: the ends and
        marks of what was accepted before, and deletions.

        Raises `StorageBusy` or `StorageFull` when nothing was kept, and
        whatever `write` itself raised.
        """
        if len(self._pending) >= PENDING_MAX and not essential:
            raise StorageBusy
        pending = PendingWrite(write, essential)
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
            return await self._reader.call(self._query, query)
        except (sqlite3.OperationalError, OSError) as error:
            raise translated(error) from error

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Commit groups for ever; the caller's task group owns it."""
        task_status.started()
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._pending:
                group, self._pending = self._pending, []
                await self._commit(group)

    async def watch_room(self) -> None:
        """Refuse what is new while the disk is full, take it once there is room; for ever."""
        while True:
            await anyio.sleep(ROOM_LOOKED_AT_EVERY_S)
            await self._writer.call(lambda _: self._reserve.look())

    def _query(self, connection: sqlite3.Connection, query: Callable[..., T]) -> T:
        self._failpoints.hit("db.read")
        return query(connection)

    async def _wait(self, pending: PendingWrite) -> None:
        """Wait for the outcome, whoever cancels meanwhile.

        A write that was not begun in time is withdrawn.  Once begun it can no
        longer be taken back, so its outcome is waited for: an unknown one
        would be worse than a late one.  SQLite's busy timeout bounds that.
        """
        with anyio.move_on_after(WRITE_DEADLINE_S, shield=True):
            await pending.done.wait()
        if not pending.begun:
            self._pending.remove(pending)
            raise StorageBusy
        if not pending.done.is_set():
            with anyio.CancelScope(shield=True):
                await pending.done.wait()

    async def _commit(self, group: list[PendingWrite]) -> None:
        for pending in group:
            pending.begun = True
        with anyio.CancelScope(shield=True):
            try:
                await self._writer.call(self._commits.apply, group)
            except BaseException as error:
                for pending in group:
                    pending.error = error
                raise
            finally:
                for pending in group:
                    pending.done.set()


@asynccontextmanager
async def open_database(
    path: Path, failpoints: Failpoints | None = None
) -> AsyncIterator[Database]:
    """Check, migrate and open the database; raises `StateDamaged` and touches nothing then."""
    reserve = DiskReserve(path)
    await anyio.to_thread.run_sync(make_ready, path, reserve)
    async with _connect(path) as writer, _connect(path) as reader:
        await writer.call(configure)
        await reader.call(_only_read)
        database = Database(writer, reader, reserve, failpoints or Failpoints.none())
        async with anyio.create_task_group() as group:
            await group.start(database.run)
            group.start_soon(database.watch_room)
            yield database
            group.cancel_scope.cancel()


@asynccontextmanager
async def _connect(path: Path) -> AsyncIterator[_Connection]:
    def connector() -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)

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
    connection.execute("PRAGMA temp_store = MEMORY")
