"""What happens on the thread of the writing connection: a group of writes becomes one commit.

A commit costs one fsync, so writes that wait together share it.  They run without
savepoints, which would cost two statements a write.  Where one of them fails, the
transaction is undone and the others run again, each in a savepoint of its own: a
write that fails is undone alone, and a write may be run more than once.

A commit that finds the disk full is tried again with the room of the reserve, but
for the essential writes only.  After COMMIT has returned the writes are kept, and
that is what their callers are told, whatever fails between.  An fsync that fails
is told as not kept; a crash before the next commit can bring such writes back.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from errno import EAGAIN, EBUSY, EDQUOT, ENOSPC
from typing import Any, TypeVar

import anyio

from contracts.service.failpoints import Failpoints
from orchestratord.errors import StorageBusy, StorageFull
from orchestratord.stores.disk_reserve import DiskReserve

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]

_BUSY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_FULL_CODES = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
"""A quota, or no room for the shared memory of the log, is told as an I/O error."""
_BUSY_ERRORS = frozenset({EAGAIN, EBUSY})
_FULL_ERRORS = frozenset({EDQUOT, ENOSPC})


@dataclass(slots=True, eq=False)
class PendingWrite:
    """A write on its way; `done` once it has a result or an error."""

    write: Write[Any]
    essential: bool
    done: anyio.Event = field(default_factory=anyio.Event)
    begun: bool = False
    result: Any = None
    error: BaseException | None = None


class _Undone(Exception):
    """One write has undone its whole group; `told` is why."""

    def __init__(self, told: BaseException) -> None:
        super().__init__(str(told))
        self.told = told


class GroupCommit:
    """Applies groups to the writing connection, one after the other."""

    def __init__(self, reserve: DiskReserve, failpoints: Failpoints) -> None:
        self._reserve = reserve
        self._failpoints = failpoints

    def apply(self, connection: sqlite3.Connection, group: Sequence[PendingWrite]) -> None:
        """Run a group; each of its writes has a result or an error when this returns."""
        if self._reserve.shedding:
            group = _shed(group)
        if not group or self._commit(connection, group):
            return
        self._reserve.spend()
        for pending in _shed(group):  # alone, so that a large one fails no small one
            self._commit(connection, [pending])

    def _commit(self, connection: sqlite3.Connection, group: Sequence[PendingWrite]) -> bool:
        """Commit a group, or tell each write what undid all; False where that is a full disk."""
        try:
            failed = self._transact(connection, group, savepoints=False)
            others = [pending for pending in group if pending is not failed]
            if failed is not None and others:
                self._transact(connection, others, savepoints=True)
        except (_Undone, sqlite3.Error, OSError) as error:
            told = error.told if isinstance(error, _Undone) else translated(error)
            for pending in group:
                pending.error = told
            return not isinstance(told, StorageFull)
        return True

    def _transact(
        self, connection: sqlite3.Connection, group: Sequence[PendingWrite], *, savepoints: bool
    ) -> PendingWrite | None:
        """One transaction; the write that ended it, where there are no savepoints to go back to."""
        self._failpoints.hit("db.begin")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for pending in group:
                self._run(connection, pending, savepoint=savepoints)
                if pending.error is not None and not savepoints:
                    _roll_back(connection)
                    return pending
            self._failpoints.hit("db.commit")
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        with contextlib.suppress(OSError):
            self._failpoints.hit("db.committed")
        return None

    def _run(
        self, connection: sqlite3.Connection, pending: PendingWrite, *, savepoint: bool
    ) -> None:
        if savepoint:
            connection.execute("SAVEPOINT one")
        try:
            self._failpoints.hit("db.write")
            pending.result, pending.error = pending.write(connection), None
        # A boundary: what a write raises is told to its caller, and to no other.
        except Exception as error:
            pending.error = translated(error)
            broken = savepoint and not connection.in_transaction
            if broken or isinstance(pending.error, StorageFull):
                raise _Undone(pending.error) from error
            if savepoint:
                connection.execute("ROLLBACK TO one")
        if savepoint:
            connection.execute("RELEASE one")


def translated(error: BaseException) -> BaseException:
    """SQLite's and the system's ways of saying locked or full, in ours; else `error` itself."""
    if isinstance(error, sqlite3.OperationalError):
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
        busy, full = primary in _BUSY_CODES, primary in _FULL_CODES
    else:
        number = error.errno if isinstance(error, OSError) else None
        busy, full = number in _BUSY_ERRORS, number in _FULL_ERRORS
    if busy:
        return StorageBusy()
    return StorageFull() if full else error


def _roll_back(connection: sqlite3.Connection) -> None:
    """Undo what is open; some errors make SQLite do it by itself."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _shed(group: Sequence[PendingWrite]) -> list[PendingWrite]:
    """Refuse what is not essential; the rest."""
    for pending in group:
        if not pending.essential:
            pending.error = StorageFull()
    return [pending for pending in group if pending.essential]
