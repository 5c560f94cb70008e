"""The composition root: everything built once, in the order it depends on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from contracts.config import Config, Gpus
from contracts.service.app import build_app
from contracts.service.daemon import Service
from contracts.service.drain import Drain
from contracts.service.failpoints import Failpoints
from contracts.service.prometheus import MetricsRegistry
from contracts.service.settings import Settings
from pool_managerd.adoption import take_stock
from pool_managerd.app import RouteGroups
from pool_managerd.clock import SystemClock
from pool_managerd.fleet import Fleet
from pool_managerd.http.leases import LeaseRoutes
from pool_managerd.http.observability import ObservabilityRoutes
from pool_managerd.http.pools import PoolRoutes
from pool_managerd.http.replicas import ReplicaRoutes
from pool_managerd.http.snapshot import SnapshotRoutes
from pool_managerd.launch_tools import LaunchTools
from pool_managerd.leasing import Leasing
from pool_managerd.managed_pool import PoolTools, entries_of
from pool_managerd.metrics import PoolMetrics
from pool_managerd.models.digest import ModelDigests
from pool_managerd.models.resolve import ModelResolver
from pool_managerd.pool_records import PoolRecords
from pool_managerd.pools import Pools
from pool_managerd.replica import Replica
from pool_managerd.room import Room
from pool_managerd.run_records import RunRecords
from pool_managerd.snapshots import Parts, SnapshotBoard
from pool_managerd.telemetry.file import FileSource
from pool_managerd.telemetry.none import NoSource
from pool_managerd.telemetry.nvml import NvmlSource
from pool_managerd.telemetry.sampler import DeviceSource, Sampler
from pool_managerd.watching import Patience
from worker_adapters.transport import EngineTransport


@asynccontextmanager
async def open_service(settings: Settings, drain: Drain) -> AsyncIterator[Service]:
    """Take back or end what an earlier start left, start every supervisor, then serve.

    Leaving the block after a stop leaves no replica; after a crash of something here
    the replicas live on, and the next start takes them back.
    """
    async with EngineTransport() as transport, anyio.create_task_group() as group:
        yield await _open(settings, drain, transport, group)
        group.cancel_scope.cancel()


async def _open(
    settings: Settings, drain: Drain, transport: EngineTransport, group: TaskGroup
) -> Service:
    config, clock = settings.config, SystemClock()
    failpoints = Failpoints.parsed("pool_managerd", settings.failpoints)
    registry = MetricsRegistry("pool_managerd")
    records, pool_records = RunRecords(settings.state_dir), PoolRecords(settings.state_dir)
    replicas: dict[str, Replica] = {}
    pools = Pools()
    board = SnapshotBoard(lambda: Parts(pools.views(), sampler.devices, sampler.age_ms()), clock)
    sampler = Sampler(_source(config.gpus), clock, board.changed)
    leasing = Leasing(replicas, clock, board.changed, failpoints)

    def replica_changed(replica: Replica) -> None:
        if replica.endpoint is None:
            leasing.void(replica.entry.replica_id)
        board.changed()

    wanted = await anyio.to_thread.run_sync(_wanted, config, pool_records)
    tools = LaunchTools(
        records=records,
        telemetry=sampler,
        digests=ModelDigests(settings.state_dir),
        downloads_allowed=config.policy.downloads.allow,
        models=ModelResolver(config.policy.downloads, settings.state_dir, holders=list(wanted)),
        transport=transport,
        state_dir=settings.state_dir,
        stop_grace_ms=config.timeouts.stop_grace_ms,
        clock=clock,
        leasing=leasing,
        patience=Patience.of(config),
        start_timeout_s=config.supervision.start_ms / 1000,
        reserve_bytes=config.gpus.reserve_bytes,
        failpoints=failpoints,
    )
    survivors = await take_stock(records, wanted, config.timeouts.stop_grace_ms)
    fleet = Fleet(replicas, tools, survivors, replica_changed, group)
    room = Room(sampler, config.gpus.reserve_bytes)
    pools.open(
        config,
        PoolTools(fleet, leasing, pool_records, clock, group, room.holds, board.changed),
    )
    for work in (sampler.run, leasing.expire, tools.log_keeper.run, registry.watch_loop_lag):
        group.start_soon(work)
    metrics = PoolMetrics(registry, board, replicas, sampler.xid_errors)
    routes = RouteGroups(
        snapshot=SnapshotRoutes(board, drain, config.limits, config.streams),
        leases=LeaseRoutes(leasing, config.limits),
        pools=PoolRoutes(board, pools.by_id, config.limits),
        replicas=ReplicaRoutes(replicas, drain),
        observability=ObservabilityRoutes(metrics, drain),
    )
    app = build_app(routes.routes(), settings=settings, listen=config.pool_managerd, drain=drain)

    async def stop() -> None:
        pools.halt()
        if not settings.leave_replicas:
            await fleet.stop()

    async def reload(fresh: Settings) -> None:
        await pools.apply(fresh.config)

    return Service(app, stop=stop, reload=reload, alive=leasing.is_turning)


def _wanted(config: Config, records: PoolRecords) -> dict[str, str]:
    """The fingerprint of every launch that is asked for, by replica id."""
    return {
        entry.replica_id: entry.fingerprint
        for place, pool in enumerate(config.pools)
        for entry in entries_of(pool, place, records.read(pool))
    }


def _source(gpus: Gpus) -> DeviceSource:
    if gpus.source == "file":
        assert gpus.file is not None
        return FileSource(Path(gpus.file).expanduser(), gpus.sample_ms)
    return NvmlSource(gpus.sample_ms) if gpus.source == "nvml" else NoSource()
