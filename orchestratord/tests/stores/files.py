"""Database files as another process sees them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def foreign(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection, as good as."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def count(path: Path) -> int:
    with foreign(path) as connection:
        found: int = connection.execute("SELECT count(*) FROM tasks").fetchone()[0]
        return found


def allocated(path: Path) -> int:
    """Bytes of the blocks a file really has."""
    return path.stat().st_blocks * 512
