"""Rows to write where it does not matter what is in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from orchestratord.stores.database import Database
from orchestratord.tests.stores.files import foreign


async def with_notes(database: Database) -> Database:
    """A database with a table for them."""
    await database.write(
        lambda c: c.execute("CREATE TABLE notes (number INTEGER PRIMARY KEY, text TEXT)"),
        essential=True,
    )
    return database


def note(number: int, text: str = "") -> Callable[[sqlite3.Connection], object]:
    """A write of one."""
    return lambda c: c.execute("INSERT INTO notes VALUES (?, ?)", (number, text))


def notes_in(path: Path) -> set[int]:
    """The numbers of all, as another process sees them."""
    with foreign(path) as connection:
        return {number for (number,) in connection.execute("SELECT number FROM notes")}
