"""The files by which a running daemon is found: its lock and its address.

`run/NAME.lock` is held with flock for the life of the process, so that a crash
frees it.  `run/NAME.json` says where it listens; it appears by rename after the
port is open and goes at a clean stop, so that a reader never sees half of one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

RUN_FILE_BYTES_MAX = 4096


class AlreadyRunning(Exception):
    """Another process holds this state directory; exit 75."""


class RunInfo(NamedTuple):
    """Where a daemon listens, and its process id."""

    url: str
    pid: int


@contextmanager
def daemon_lock(state_dir: Path, name: str) -> Iterator[None]:
    """Hold `run/NAME.lock` for as long as the block lasts.

    Raises:
        AlreadyRunning: another process holds it.
    """
    path = _run_dir(state_dir) / f"{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(
                f"{path} is held by another {name}; stop that one, or set another state_dir"
            ) from error
        yield
    finally:
        os.close(descriptor)


class RunFile:
    """`run/NAME.json`, the address of one daemon."""

    @staticmethod
    def write(state_dir: Path, name: str, url: str) -> None:
        """Put the file in place, readable by its owner only."""
        target = _run_dir(state_dir) / f"{name}.json"
        fresh = target.with_suffix(f".{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode({"url": url, "pid": os.getpid()}))
        fresh.replace(target)

    @staticmethod
    def read(state_dir: Path, name: str) -> RunInfo | None:
        """What the daemon wrote, or None where it has not, or it is unreadable."""
        try:
            with (state_dir / "run" / f"{name}.json").open("rb") as file:
                return msgspec.json.decode(file.read(RUN_FILE_BYTES_MAX), type=_RunInfoJson).info()
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    @staticmethod
    def remove(state_dir: Path, name: str) -> None:
        """Take the file away; nothing happens where there is none."""
        (state_dir / "run" / f"{name}.json").unlink(missing_ok=True)


class _RunInfoJson(msgspec.Struct):
    url: str
    pid: int

    def info(self) -> RunInfo:
        return RunInfo(self.url, self.pid)


def _run_dir(state_dir: Path) -> Path:
    directory = state_dir / "run"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory
