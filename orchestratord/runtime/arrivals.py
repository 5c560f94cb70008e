"""Tasks on their way in: between the first look at their id and their place in line.

A row is readable from its commit on, the task is found among the active ones a
moment later.  Whoever finds a row that has not ended and no active task waits here
for that moment, instead of taking the task for one that is over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Arrivals:
    """At most one arrival of an id at a time; a second one waits for the first's verdict."""

    def __init__(self) -> None:
        self._under_way: dict[str, anyio.Event] = {}

    @asynccontextmanager
    async def arriving(self, task_id: str) -> AsyncIterator[None]:
        """Around everything from the look at the id to the place in line."""
        await self.settled(task_id)
        self._under_way[task_id] = done = anyio.Event()
        try:
            yield
        finally:
            del self._under_way[task_id]
            done.set()

    async def settled(self, task_id: str) -> None:
        """Return once no task of this id is on its way in."""
        while (arrival := self._under_way.get(task_id)) is not None:
            await arrival.wait()
