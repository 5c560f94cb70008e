"""Engines left behind by a pool_managerd that was killed.

They are ended before the first one is started, so that no replica ever runs
twice.  A record counts only while boot, pid and start time agree; a pid that is
somebody else's now says that the whole group had ended.  Where the leader is gone
or a zombie but helpers of its group remain, they are its orphans too.
"""

from __future__ import annotations

import anyio
import anyio.to_thread
import structlog

from pool_managerd.process_group import GroupSurvives, end_group
from pool_managerd.procfs import boot_id, group_members, process_stat
from pool_managerd.run_records import ProcessRecord, RunRecords

_log = structlog.get_logger(__name__)


async def sweep(records: RunRecords, grace_ms: int) -> int:
    """End every recorded group that still runs and drop all records; returns how many ran."""
    found = await anyio.to_thread.run_sync(_orphans, records)
    async with anyio.create_task_group() as group:
        for orphan in found:
            group.start_soon(_end, orphan, records, grace_ms)
    return len(found)


def _orphans(records: RunRecords) -> list[ProcessRecord]:
    orphans = []
    for record in records.read_all():
        if _still_runs(record):
            orphans.append(record)
        else:
            records.remove(record.replica_id)
    return orphans


def _still_runs(record: ProcessRecord) -> bool:
    if record.boot_id != boot_id():
        return False
    leader = process_stat(record.pid)
    if leader is not None and leader.start_ticks != record.start_ticks:
        return False
    return bool(group_members(record.group))


async def _end(record: ProcessRecord, records: RunRecords, grace_ms: int) -> None:
    _log.warning("orphan.ended", replica_id=record.replica_id, pid=record.pid)
    try:
        await end_group(record.group, grace_ms)
    except GroupSurvives as error:
        _log.error("orphan.survives", replica_id=record.replica_id, message=str(error))
        return
    await anyio.to_thread.run_sync(records.remove, record.replica_id)
