"""The composition root: everything built once, in the order it depends on."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio

from contracts.config import Config, External, Gpus
from contracts.service.app import build_app
from contracts.service.daemon import Service
from contracts.service.drain import Drain
from contracts.service.failpoints import Failpoints
from contracts.service.prometheus import MetricsRegistry
from contracts.service.settings import Settings
from pool_managerd.app import RouteGroups
from pool_managerd.clock import Clock, SystemClock
from pool_managerd.domain.health import pool_view
from pool_managerd.external_life import ExternalLife
from pool_managerd.http.leases import LeaseRoutes
from pool_managerd.http.observability import ObservabilityRoutes
from pool_managerd.http.pools import PoolRoutes
from pool_managerd.http.replicas import ReplicaRoutes
from pool_managerd.http.snapshot import SnapshotRoutes
from pool_managerd.leasing import Leasing
from pool_managerd.metrics import PoolMetrics
from pool_managerd.models.digest import ModelDigests
from pool_managerd.orphans import sweep
from pool_managerd.process_life import LaunchTools, ProcessLife
from pool_managerd.replica import Replica, ReplicaEntry
from pool_managerd.run_records import RunRecords
from pool_managerd.snapshots import Parts, SnapshotBoard
from pool_managerd.supervisor import Supervisor
from pool_managerd.telemetry.file import FileSource
from pool_managerd.telemetry.none import NoSource
from pool_managerd.telemetry.nvml import NvmlSource
from pool_managerd.telemetry.sampler import DeviceSource, Sampler
from worker_adapters.transport import EngineTransport


@asynccontextmanager
async def open_service(settings: Settings, drain: Drain) -> AsyncIterator[Service]:
    """Sweep what an earlier start left, start every supervisor, then serve.

    Leaving the block stops every replica, also after a crash of something here.
    """
    failpoints = Failpoints.parsed("pool_managerd", settings.failpoints)
    wiring = _Wiring(settings.config, SystemClock(), failpoints)
    records = RunRecords(settings.state_dir)
    await sweep(records, settings.config.timeouts.stop_grace_ms)
    registry = MetricsRegistry("pool_managerd")
    async with EngineTransport() as transport, anyio.create_task_group() as group:
        tools = LaunchTools(
            records=records,
            telemetry=wiring.sampler,
            digests=ModelDigests(settings.state_dir),
            transport=transport,
            state_dir=settings.state_dir,
            stop_grace_ms=settings.config.timeouts.stop_grace_ms,
            failpoints=failpoints,
        )
        wiring.supervise(tools)
        for work in (wiring.sampler.run, wiring.leasing.expire, registry.watch_loop_lag):
            group.start_soon(work)
        for supervisor in wiring.supervisors:
            group.start_soon(supervisor.run)
        routes = wiring.routes(settings.config, registry, drain)
        app = build_app(
            routes.routes(), settings=settings, listen=settings.config.pool_managerd, drain=drain
        )
        yield Service(app, stop=partial(stop_all, wiring.supervisors))
        group.cancel_scope.cancel()


async def stop_all(supervisors: Sequence[Supervisor]) -> None:
    """Stop every replica, all at once."""
    async with anyio.create_task_group() as group:
        for supervisor in supervisors:
            group.start_soon(supervisor.stop)


class _Wiring:
    """Everything of one daemon that holds state, wired together."""

    def __init__(self, config: Config, clock: Clock, failpoints: Failpoints) -> None:
        self.supervisors: list[Supervisor] = []
        self._config = config
        self._clock = clock
        self._board = SnapshotBoard(self._parts, clock)
        self.sampler = Sampler(_source(config.gpus), clock, self._board.changed)
        self._replicas = {
            entry.replica_id: Replica(entry, clock, self._replica_changed)
            for entry in _entries(config)
        }
        self.leasing = Leasing(self._replicas, clock, self._board.changed, failpoints)

    def supervise(self, tools: LaunchTools) -> None:
        """A supervisor for every replica."""
        chance = random.SystemRandom().random
        for replica in self._replicas.values():
            external = isinstance(replica.entry.pool.provisioning, External)
            life = (
                ExternalLife(replica, tools.transport) if external else ProcessLife(replica, tools)
            )
            cut_off = partial(self.leasing.cut_off, replica.entry.replica_id)
            self.supervisors.append(Supervisor(replica, life, self._clock, chance, cut_off))

    def routes(self, config: Config, registry: MetricsRegistry, drain: Drain) -> RouteGroups:
        """What is answered about all this."""
        replicas = list(self._replicas.values())
        metrics = PoolMetrics(registry, self._board, replicas, self.sampler.xid_errors)
        return RouteGroups(
            snapshot=SnapshotRoutes(self._board, drain, config.limits, config.streams),
            leases=LeaseRoutes(self.leasing, config.limits),
            pools=PoolRoutes(self._board),
            replicas=ReplicaRoutes(self._replicas),
            observability=ObservabilityRoutes(metrics, drain),
        )

    def _replica_changed(self, replica: Replica) -> None:
        if replica.endpoint is None:
            self.leasing.void(replica.entry.replica_id)
        self._board.changed()

    def _parts(self) -> Parts:
        pools = []
        for pool in self._config.pools:
            mine = [s for s in self.supervisors if s.replica.entry.pool is pool]
            views = [s.replica.view(self.leasing.used(s.replica.entry.replica_id)) for s in mine]
            pools.append(pool_view(pool, views, [s.budget.breaker for s in mine]))
        return Parts(tuple(pools), self.sampler.devices, self.sampler.age_ms())


def _entries(config: Config) -> list[ReplicaEntry]:
    return [
        ReplicaEntry(pool, pool_index, index)
        for pool_index, pool in enumerate(config.pools)
        for index in range(len(pool.replicas))
    ]


def _source(gpus: Gpus) -> DeviceSource:
    if gpus.source == "file":
        assert gpus.file is not None
        return FileSource(Path(gpus.file).expanduser(), gpus.sample_ms)
    return NvmlSource(gpus.sample_ms) if gpus.source == "nvml" else NoSource()
