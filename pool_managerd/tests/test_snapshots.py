"""Versions rise, slow readers skip."""

import anyio
import pytest

from contracts.config import Pool
from pool_managerd.clock import SystemClock
from pool_managerd.replica import Replica, ReplicaEntry
from pool_managerd.snapshots import Parts, SnapshotBoard
from worker_adapters.base import Observation

pytestmark = pytest.mark.anyio

POOL = Pool.model_validate(
    {
        "id": "p",
        "engine": "llamacpp",
        "model": {"id": "m", "ref": "file:/m"},
        "provisioning": {"mode": "embedded"},
    },
    strict=False,
)


def board() -> SnapshotBoard:
    return SnapshotBoard(lambda: Parts((), (), None), SystemClock())


def test_a_version_is_new_after_a_change_and_the_same_without() -> None:
    """LO-POOL-060."""
    it = board()
    first = it.current()
    assert it.current() is first
    it.changed()
    assert it.current().version == first.version + 1
    assert it.current().instance_id == first.instance_id


def test_changes_that_nobody_reads_are_one_change() -> None:
    it = board()
    version, _ = it.current_json()
    for _ in range(1_000):
        it.changed()
    assert it.current().version == version + 1


def test_work_that_a_snapshot_does_not_show_is_no_change() -> None:
    """LO-POOL-137: a busy engine would send every pool to every watcher at each question."""
    changes: list[Replica] = []
    replica = Replica(ReplicaEntry(POOL, 0, 0), SystemClock(), changes.append)
    for work_done in (1, 2):
        replica.observed(Observation("v", 10, 2, 1, None, "m", work_done=work_done))
    assert len(changes) == 1
    replica.observed(Observation("v", 10, 2, 0, None, "m", work_done=2))
    assert len(changes) == 2


async def test_a_watcher_waits_for_a_change_and_misses_none() -> None:
    """LO-POOL-061."""
    it = board()
    seen: list[int] = []

    async def watch() -> None:
        version = 0
        while len(seen) < 3:
            await it.wait_newer(version)
            version, _ = it.current_json()
            seen.append(version)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            for count in (1, 2, 3):
                while len(seen) < count:
                    await anyio.lowlevel.checkpoint()
                it.changed()
    assert seen == [1, 2, 3]
