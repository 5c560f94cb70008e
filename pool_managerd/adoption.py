"""Engines that an earlier start of this daemon left: taken back, or ended.

A process is taken back when it is the very one that was launched (boot, pid, start
time, group), when the configuration still asks for this launch, and when the key
of the launch can be read back from its environment, which the record's hash
proves.  Everything else that still runs is an orphan and is ended before the first
engine is started, so that no replica ever runs twice.  Where a leader is gone or a
zombie but helpers of its group remain, they are orphans too: nobody is left who
could be asked.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

import anyio
import anyio.to_thread
import structlog

from pool_managerd.process_group import GroupSurvives, end_group, run_end
from pool_managerd.procfs import GONE_STATES, boot_id, environment_of, process_stat, session_members
from pool_managerd.run_records import ProcessRecord, RunRecords, hash_of

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Survivor:
    """An engine that outlived the daemon that started it, and the key it takes."""

    record: ProcessRecord
    api_key: str


async def take_stock(
    records: RunRecords, wanted: Mapping[str, str], grace_ms: int
) -> dict[str, Survivor]:
    """Engines to be taken back, by replica id; ends all others that were recorded.

    Args:
        wanted: the fingerprint of the launch that each replica asks for now.
    """
    survivors, orphans = await anyio.to_thread.run_sync(_sorted, records, wanted)
    async with anyio.create_task_group() as group:
        for orphan in orphans:
            group.start_soon(_end, orphan, records, grace_ms)
    return survivors


def _sorted(
    records: RunRecords, wanted: Mapping[str, str]
) -> tuple[dict[str, Survivor], list[ProcessRecord]]:
    survivors: dict[str, Survivor] = {}
    orphans = []
    for record in records.read_all():
        if not _still_runs(record) and not record.launch.end_argv:
            records.remove(record.replica_id)
            continue
        fingerprint = wanted.get(record.replica_id)
        key = _key(record) if fingerprint == record.launch.fingerprint else None
        if key is None:
            orphans.append(record)
        else:
            survivors[record.replica_id] = Survivor(record, key)
    return survivors, orphans


def is_alive(record: ProcessRecord) -> bool:
    """Whether the leader lives, and is the process that was recorded."""
    leader = process_stat(record.pid)
    return (
        leader is not None
        and leader.start_ticks == record.start_ticks
        and leader.state not in GONE_STATES
    )


def _still_runs(record: ProcessRecord) -> bool:
    """Whether anything is left of the recorded group."""
    if record.boot_id != boot_id():
        return False
    leader = process_stat(record.pid)
    if leader is not None and leader.start_ticks != record.start_ticks:
        return False
    return bool(session_members(record.group))


def _key(record: ProcessRecord) -> str | None:
    """The key of the launch; None where the leader is gone or shows no such thing."""
    if not is_alive(record):
        return None
    for value in environment_of(record.pid).values():
        if hmac.compare_digest(hash_of(value), record.api_key_sha256):
            return value.decode()
    return None


async def end_recorded(record: ProcessRecord, records: RunRecords, grace_ms: int) -> None:
    """End what is left of a recorded launch, and forget it.

    Raises:
        GroupSurvives: its processes do not go away.
    """
    # Of a container the client may be gone, and its number another process's by now.
    if await anyio.to_thread.run_sync(_still_runs, record):
        await end_group(record.group, grace_ms)
    await run_end(record.launch.end_argv)
    await anyio.to_thread.run_sync(records.remove, record.replica_id)


async def _end(record: ProcessRecord, records: RunRecords, grace_ms: int) -> None:
    _log.warning("orphan.ended", replica_id=record.replica_id, pid=record.pid)
    try:
        await end_recorded(record, records, grace_ms)
    except GroupSurvives as error:
        _log.error("orphan.survives", replica_id=record.replica_id, message=str(error))
