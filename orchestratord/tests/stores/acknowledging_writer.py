"""A child for the test of `kill -9`: inserts for ever, and says which inserts returned."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from orchestratord.stores.database import open_database
from orchestratord.stores.tasks import TaskStore
from orchestratord.tests.stores.rows import id_of, new_task

WRITERS = 8


async def main(path: Path) -> None:
    async with open_database(path) as database, anyio.create_task_group() as group:
        for writer in range(WRITERS):
            group.start_soon(insert_for_ever, TaskStore(database), writer)


async def insert_for_ever(store: TaskStore, writer: int) -> None:
    number = writer
    while True:
        number += WRITERS
        await store.insert(new_task(number))
        sys.stdout.write(f"{id_of(number)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
