"""What a replica writes, in a file that cannot grow without bound.

The engine appends to the file itself (`O_APPEND`); a pipe would fill up when this
daemon hangs and break when it dies.  So the bound is kept from outside: what is
newest is copied to `NAME.log.1` and the file is cut to nothing, under the
engine's hands.  Lines written between the copy and the cut are lost.
"""

from __future__ import annotations

import os
from pathlib import Path

LOG_BYTES_MAX = 8 * 1024 * 1024
TAIL_BYTES = 64 * 1024
TAIL_LINES = 40
LINE_CHARACTERS_MAX = 500


class ReplicaLog:
    """One replica's log; every method does file I/O and belongs in a worker thread."""

    def __init__(self, state_dir: Path, replica_id: str, bytes_max: int = LOG_BYTES_MAX) -> None:
        self.path = state_dir / "logs" / f"{replica_id.replace('/', '@')}.log"
        self._older = self.path.with_suffix(".log.1")
        self._bytes_max = bytes_max
        self._launch_offset = 0
        self._cut_since_launch = False

    def open_for_launch(self) -> int:
        """A descriptor that appends, for the engine; the tail starts here."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        self._launch_offset = os.fstat(descriptor).st_size
        self._cut_since_launch = False
        return descriptor

    def bound(self) -> None:
        """Cut the file when it has outgrown its bound; a full disk loses the copy only."""
        if not self.path.exists() or self.path.stat().st_size <= self._bytes_max:
            return
        with self.path.open("rb+") as file:
            try:
                self._keep(_last(file.fileno(), self._bytes_max // 2))
            finally:
                file.truncate(0)
                self._launch_offset = 0
                self._cut_since_launch = True

    def _keep(self, newest: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(self._older, flags, 0o600), "wb") as file:
            file.write(newest)

    def tail(self, secret: str) -> tuple[str, ...]:
        """The last lines of this launch, printable, with `secret` blanked."""
        text = self._newest().decode(errors="replace")
        if secret:
            text = text.replace(secret, "[redacted]")
        lines = [_printable(line) for line in text.split("\n") if line.strip()]
        return tuple(lines[-TAIL_LINES:])

    def _newest(self) -> bytes:
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            written = max(0, size - self._launch_offset)
            newest = _last(file.fileno(), min(TAIL_BYTES, written))
        if self._cut_since_launch and len(newest) < TAIL_BYTES and self._older.exists():
            with self._older.open("rb") as file:
                newest = _last(file.fileno(), TAIL_BYTES - len(newest)) + newest
        return newest


def _last(descriptor: int, count: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, count, max(0, size - count))


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in line.rstrip()[:LINE_CHARACTERS_MAX])
