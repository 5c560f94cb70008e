"""A daemon's inside, with one replica of one slot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestratord.runtime import dispatcher
from orchestratord.tests.runtime.world import World, world_at


@pytest.fixture(autouse=True)
def _retries_do_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "STORAGE_RETRY_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "orchestratord.sqlite"


@pytest.fixture
async def world(path: Path) -> AsyncIterator[World]:
    """It, running."""
    async with world_at(path) as world:
        yield world
