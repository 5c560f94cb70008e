"""The composition root: everything built once, in the order it depends on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
from anyio.abc import TaskGroup

from contracts.service.app import build_app
from contracts.service.daemon import Service
from contracts.service.drain import Drain
from contracts.service.prometheus import MetricsRegistry
from contracts.service.settings import Settings
from orchestratord.app import RouteGroups
from orchestratord.clients.pools import PoolsClient, new_session
from orchestratord.clock import SystemClock
from orchestratord.domain.admission import PoolSpec
from orchestratord.domain.scheduler import Scheduler
from orchestratord.http.observability import ObservabilityRoutes
from orchestratord.http.pools import PoolRoutes
from orchestratord.http.tasks import TaskRoutes
from orchestratord.runtime.attempt import AttemptTools
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.housekeeping import Housekeeping
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.runtime.recovery import Recovery
from orchestratord.runtime.shutdown import shut_down
from orchestratord.runtime.task_history import TaskHistory
from orchestratord.runtime.task_metrics import TaskMetrics
from orchestratord.stores.database import Database, open_database
from orchestratord.stores.tasks import TaskStore
from worker_adapters.registry import ENGINES
from worker_adapters.transport import EngineTransport

DATABASE_NAME = "orchestratord.sqlite"


@asynccontextmanager
async def open_service(settings: Settings, drain: Drain) -> AsyncIterator[Service]:
    """Recover, then serve; leaving the block stops every background task."""
    async with (
        open_database(settings.state_dir / DATABASE_NAME) as database,
        new_session() as session,
        EngineTransport() as transport,
        anyio.create_task_group() as group,
    ):
        client = PoolsClient(settings.state_dir, settings.token, session)
        yield await _open(settings, drain, database, client, transport, group)
        group.cancel_scope.cancel()


async def _open(
    settings: Settings,
    drain: Drain,
    database: Database,
    client: PoolsClient,
    transport: EngineTransport,
    group: TaskGroup,
) -> Service:
    config = settings.config
    clock = SystemClock()
    registry = MetricsRegistry("orchestratord")
    specs = [PoolSpec.of(pool) for pool in config.pools]
    scheduler = Scheduler([spec.pool_id for spec in specs], config.queue.capacity)
    pools, shelf, store = (
        PoolsView(config.gpus.reserve_bytes),
        LogShelf(config.streams),
        TaskStore(database),
    )
    tools = AttemptTools(client, ENGINES, transport, store, clock, config.timeouts)
    dispatcher = Dispatcher(
        specs,
        scheduler,
        pools,
        shelf,
        tools,
        TaskMetrics(registry),
        group,
        await store.last_sequence(),
    )
    await Recovery(store, shelf, clock, dispatcher).run(specs)
    housekeeping = Housekeeping(dispatcher, shelf, store, clock, config.streams, group)
    group.start_soon(_follow_pools, client, pools, dispatcher)
    group.start_soon(housekeeping.watch_clocks)
    group.start_soon(housekeeping.enforce_retention)
    group.start_soon(registry.watch_loop_lag)
    routes = RouteGroups(
        tasks=TaskRoutes(dispatcher, shelf, TaskHistory(store, dispatcher), config, drain),
        pools=PoolRoutes(specs, pools, scheduler, config),
        observability=ObservabilityRoutes(registry, drain),
    ).routes()
    app = build_app(routes, settings=settings, listen=config.orchestratord, drain=drain)
    return Service(app, stop=partial(shut_down, dispatcher, config.timeouts.drain_ms))


async def _follow_pools(client: PoolsClient, pools: PoolsView, dispatcher: Dispatcher) -> None:
    async for snapshot in client.snapshots():
        pools.update(snapshot)
        dispatcher.pump()
