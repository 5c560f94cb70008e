"""What a replica writes, in a file that cannot grow without bound.

The engine appends to the file itself (`O_APPEND`); a pipe would fill up when this
daemon hangs and break when it dies.  So the bound is kept from outside: what is
newest is copied to `NAME.log.1` and the file is cut to nothing, under the
engine's hands.  Lines written between the copy and the cut are lost.

A reader holds a position, in bytes since this daemon opened the log: a cut moves
none, and what was there before has positions below zero.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

from pool_managerd.record_files import file_stem

LOG_BYTES_MAX = 8 * 1024 * 1024
TAIL_BYTES = 64 * 1024
TAIL_LINES = 40
LINE_CHARACTERS_MAX = 500
BLOCK_BYTES = 64 * 1024
KEYS_REMEMBERED = 32
_FAR = 1 << 62


class Piece(NamedTuple):
    """Some bytes of a log and the position where they begin."""

    position: int
    content: bytes

    @property
    def end(self) -> int:
        """The position after them."""
        return self.position + len(self.content)


class ReplicaLog:
    """One replica's log; every method does file I/O and belongs in a worker thread."""

    def __init__(self, state_dir: Path, replica_id: str, bytes_max: int = LOG_BYTES_MAX) -> None:
        self.path = state_dir / "logs" / f"{file_stem(replica_id)}.log"
        self._older = self.path.with_suffix(".log.1")
        self._bytes_max = bytes_max
        self._launch_offset = 0
        self._cut_since_launch = False
        self._lock = threading.Lock()
        self._begin = 0
        """The position of the first byte of the file."""
        self._older_end = 0
        """The position after the last byte of the older file."""
        self._keys: deque[str] = deque(maxlen=KEYS_REMEMBERED)

    @property
    def keys(self) -> tuple[str, ...]:
        """API keys of launches that may stand in it; those of an earlier daemon open nothing."""
        return tuple(self._keys)

    def conceal(self, api_key: str) -> None:
        """Remember a key that no reader is to see."""
        if api_key:
            self._keys.append(api_key)

    def open_for_launch(self) -> int:
        """A descriptor that appends, for the engine; the tail starts here."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        self._launch_offset = os.fstat(descriptor).st_size
        self._cut_since_launch = False
        return descriptor

    def bound(self) -> int:
        """Cut the file when it has outgrown its bound; a full disk loses the copy only.

        Returns:
            How large the file was, in bytes.
        """
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return 0
        if size > self._bytes_max:
            with self._lock, self.path.open("rb+") as file:
                self._cut(file.fileno())
        return size

    def _cut(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        try:
            self._keep(descriptor, max(0, size - self._bytes_max // 2), size)
        except OSError:
            self._older.unlink(missing_ok=True)
            raise
        finally:
            self._older_end = self._begin + size
            self._begin += os.fstat(descriptor).st_size
            os.ftruncate(descriptor, 0)
            self._launch_offset = 0
            self._cut_since_launch = True

    def _keep(self, descriptor: int, start: int, end: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(self._older, flags, 0o600), "wb") as file:
            for offset in range(start, end, BLOCK_BYTES):
                file.write(os.pread(descriptor, min(BLOCK_BYTES, end - offset), offset))

    def read(self, position: int) -> Piece:
        """At most a block from `position` on, or from the first byte after it that is kept."""
        with self._lock:
            if position < self._begin:
                found = self._read_older(position)
                if found.content:
                    return found
                position = self._begin
            size = _size(self.path)
            offset = min(position - self._begin, size)  # somebody else may have cut it
            return Piece(self._begin + offset, _block(self.path, offset, BLOCK_BYTES))

    def _read_older(self, position: int) -> Piece:
        length = _size(self._older)
        offset = max(0, length - (self._older_end - position))
        count = max(0, min(BLOCK_BYTES, length - offset))
        return Piece(self._older_end - length + offset, _block(self._older, offset, count))

    def end(self) -> int:
        """The position after the newest byte."""
        with self._lock:
            return self._begin + _size(self.path)

    def start_of_last(self, lines: int) -> int:
        """The position where the last `lines` lines begin, as far as they are kept."""
        end = self.end()
        first = self.read(-_FAR).position
        if lines == 0:
            return end
        wanted, at = lines, end
        while at > first:
            start = max(first, at - BLOCK_BYTES)
            block = self._between(start, at)
            if at == end and block.endswith(b"\n"):
                wanted += 1
            found = block.count(b"\n")
            if found >= wanted:
                for _ in range(wanted):
                    cut = block.rindex(b"\n")
                    block = block[:cut]
                return start + cut + 1
            wanted -= found
            at = start
        return first

    def _between(self, start: int, end: int) -> bytes:
        """What is kept of these bytes, at most a block; zeros stand for what is not."""
        content = b""
        while start + len(content) < end:
            piece = self.read(start + len(content))
            gap = piece.position - (start + len(content))
            if not piece.content:
                break
            content += b"\0" * gap + piece.content
        return content[: end - start].ljust(end - start, b"\0")

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


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _block(path: Path, offset: int, count: int) -> bytes:
    if count == 0 or not path.exists():
        return b""
    with path.open("rb") as file:
        return os.pread(file.fileno(), count, offset)


def _last(descriptor: int, count: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, count, max(0, size - count))


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in line.rstrip()[:LINE_CHARACTERS_MAX])
