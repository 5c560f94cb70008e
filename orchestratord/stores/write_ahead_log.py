"""Whether a write-ahead log still holds every commit that was acknowledged.

SQLite reads a log up to its first bad frame and takes the rest for what was never
committed, so a log that was cut or damaged loses accepted tasks without a word.
The index beside it (`-shm`) says how many frames were committed: it is written
after the log is synced, and it outlives the process.  So fewer good frames than
the index counts are a loss.  A cut that no index tells of (after a power failure,
or where it was removed) cannot be told from a tail that was never committed.

Both formats: https://www.sqlite.org/walformat.html
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

LOG_VERSION = 3_007_000
FRAMES_READ_MAX = 8_192
"""A longer log, half a second's work, is looked at in its last frame only."""

_LOG_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_INDEX_HEADER_BYTES = 48
_INDEX = struct.Struct("=IIIBBHI4xII8sII48xI")
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
"""The byte order of the checksums."""
_WORD = 0xFFFFFFFF

Checksum = tuple[int, int]


class _Index(NamedTuple):
    """What the index says is committed, and how much of that is in the database file."""

    page_bytes: int
    frames: int
    backfilled: int
    salt: bytes
    last: Checksum


def log_path(database: Path) -> Path:
    """Where SQLite keeps the write-ahead log of a database."""
    return database.with_name(f"{database.name}-wal")


def index_path(database: Path) -> Path:
    """Where SQLite keeps the index of the log."""
    return database.with_name(f"{database.name}-shm")


def log_damage(database: Path) -> str | None:
    """One line on what the log of a database nobody has open lacks, or None."""
    path, index = log_path(database), _read_index(index_path(database))
    log = path.read_bytes() if path.exists() else b""
    if len(log) >= _LOG_HEADER_BYTES and any(log[:_LOG_HEADER_BYTES]) and not _is_log(log):
        return f"{path}: not a write-ahead log; restore a backup, or remove it with what it held"
    if index is None or index.frames <= index.backfilled or _holds(log, index):
        return None
    return (
        f"{path}: lacks writes that were acknowledged; restore a backup, or remove"
        f" {index_path(database)} to go on without them"
    )


def _read_index(path: Path) -> _Index | None:
    """The index, where it is whole."""
    try:
        with path.open("rb") as file:
            data = file.read(_INDEX.size)
    except FileNotFoundError:
        return None
    if len(data) < _INDEX.size or data[:48] != data[48:96]:
        return None
    version, _, _, initialised, _, page, frames, *rest = _INDEX.unpack(data)
    *last, salt, sum0, sum1, backfilled = rest
    words = struct.unpack("=10I", data[:40])
    if version != LOG_VERSION or not initialised or _checksum(words, (0, 0)) != (sum0, sum1):
        return None
    page_bytes = (page & 0xFE00) + ((page & 1) << 16)
    return _Index(page_bytes, frames, backfilled, salt, (last[0], last[1]))


def _is_log(log: bytes) -> bool:
    magic, version, *_, sum0, sum1 = struct.unpack(">8I", log[:_LOG_HEADER_BYTES])
    if magic not in _MAGIC or version != LOG_VERSION:
        return False
    words = struct.unpack(f"{_MAGIC[magic]}6I", log[:24])
    return _checksum(words, (0, 0)) == (sum0, sum1)


def _holds(log: bytes, index: _Index) -> bool:
    """Whether every frame the index counts is there; a log begun anew since is believed."""
    if len(log) >= _LOG_HEADER_BYTES and log[16:24] != index.salt:
        return True
    frame_bytes = _FRAME_HEADER_BYTES + index.page_bytes
    if len(log) < _LOG_HEADER_BYTES + index.frames * frame_bytes:
        return False
    starts = range(_LOG_HEADER_BYTES, len(log), frame_bytes)[: index.frames]
    if _stored(log, starts[-1]) != index.last:
        return False
    return len(starts) > FRAMES_READ_MAX or _is_unbroken(log, starts, frame_bytes)


def _is_unbroken(log: bytes, starts: range, frame_bytes: int) -> bool:
    """Whether each frame's checksum follows from the one before."""
    order = _MAGIC[int.from_bytes(log[:4], "big")]
    head, page = struct.Struct(f"{order}2I"), struct.Struct(f"{order}{frame_bytes // 4 - 6}I")
    running = _stored(log, _LOG_HEADER_BYTES - _FRAME_HEADER_BYTES)
    for start in starts:
        running = _checksum(head.unpack_from(log, start), running)
        running = _checksum(page.unpack_from(log, start + _FRAME_HEADER_BYTES), running)
        if running != _stored(log, start):
            return False
    return True


def _stored(log: bytes, start: int) -> Checksum:
    """The checksum at the end of a header of 24 bytes."""
    first, second = struct.unpack_from(">2I", log, start + 16)
    return first, second


def _checksum(words: tuple[int, ...], start: Checksum) -> Checksum:
    """SQLite's checksum over pairs of words, going on from `start`."""
    first, second = start
    pairs = iter(words)
    for one, other in zip(pairs, pairs, strict=True):
        first = (first + one + second) & _WORD
        second = (second + other + first) & _WORD
    return first, second
