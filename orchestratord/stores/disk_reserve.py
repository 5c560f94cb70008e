"""Room kept back on the disk, so that what was accepted can be finished on a full one.

A full disk takes no write at all, a DELETE no more than an INSERT.  So a file of
real blocks lies beside the database.  When a commit finds no room its blocks go
to SQLite, and nothing new is accepted until there is room to keep them back again.
The file itself stays, empty: it also shows that a database was here.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import structlog

log = structlog.get_logger()

RESERVE_BYTES = 2 * 1024 * 1024
MARGIN_BYTES = 512 * 1024
"""With less room than this nothing new is accepted, so that the reserve is not for nothing."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def reserve_path(database: Path) -> Path:
    """Where the reserve of a database lies."""
    return database.with_name(f"{database.name}.reserve")


class DiskReserve:
    """The file of one database; used by one thread, `shedding` is read by any."""

    def __init__(self, database: Path) -> None:
        self._path = reserve_path(database)
        self._kept = False
        self._warned = False
        self.shedding = False
        """Whether what is new is to be refused."""

    def look(self) -> None:
        """Keep room back where there is some, and decide whether to go on shedding.

        A disk on which no file can be kept for another reason than its room is
        served without one.
        """
        try:
            full = not self._keep_back()
        except OSError as error:
            full = error.errno in _NO_ROOM
            if not full:
                self._warn(error)
        if full:
            self._shed()
        elif self.shedding:
            log.info("storage.room_again", path=str(self._path))
            self.shedding = False

    def spend(self) -> None:
        """Give the room to the database, and shed from now on."""
        self._kept = False
        try:
            if self._found() != (0, 0):
                os.truncate(self._path, 0)
        except OSError as error:
            self._warn(error)
        self._shed()

    def _keep_back(self) -> bool:
        """Whether the blocks are kept and the margin is free."""
        size, allocated = self._found()
        if _room(self._path.parent) < MARGIN_BYTES + max(0, RESERVE_BYTES - allocated):
            return False
        if not self._kept or size < RESERVE_BYTES:
            self._allocate()
            self._kept = True
        return True

    def _found(self) -> tuple[int, int]:
        """Bytes of the file, and bytes of its blocks."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return 0, 0
        return found.st_size, found.st_blocks * 512

    def _allocate(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            os.ftruncate(descriptor, 0)
            raise
        finally:
            os.close(descriptor)

    def _shed(self) -> None:
        if not self.shedding:
            log.warning("storage.full", path=str(self._path.parent), remedy="free some space")
        self.shedding = True

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning("storage.no_reserve", path=str(self._path), reason=error.strerror)
        self._warned = True


def _room(directory: Path) -> int:
    """Bytes this user may still write; root may use what is set aside for it."""
    found = os.statvfs(directory)
    if found.f_blocks == 0:  # some network file systems do not say
        return MARGIN_BYTES + RESERVE_BYTES
    return found.f_frsize * (found.f_bavail if os.geteuid() else found.f_bfree)
