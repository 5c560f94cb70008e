"""A child to be killed: inserts for ever, and says which inserts returned.

python -m orchestratord.tests.stores.acknowledging_writer DATABASE [FAILPOINTS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from contracts.service.failpoints import Failpoints
from contracts.service.logs import configure_logs
from orchestratord.stores.database import open_database
from orchestratord.stores.tasks import TaskStore
from orchestratord.tests.stores.rows import id_of, new_task

WRITERS = 8


async def main(path: Path, failpoints: Failpoints) -> None:
    async with open_database(path, failpoints) as database, anyio.create_task_group() as group:
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
    configure_logs("info", "orchestratord")
    spec = sys.argv[2] if len(sys.argv) > 2 else None
    anyio.run(main, Path(sys.argv[1]), Failpoints.parsed("orchestratord", spec))
