"""A database in a file of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestratord.stores.database import Database, open_database
from orchestratord.stores.tasks import TaskStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "orchestratord.sqlite"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    """It, open."""
    async with open_database(path) as database:
        yield database


@pytest.fixture
def store(database: Database) -> TaskStore:
    """Its tasks."""
    return TaskStore(database)
