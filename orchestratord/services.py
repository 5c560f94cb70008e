"""The composition root: everything built once, in the order it depends on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
from anyio.abc import TaskGroup

from contracts.config import Config
from contracts.service.app import build_app
from contracts.service.daemon import Service
from contracts.service.drain import Drain
from contracts.service.failpoints import Failpoints
from contracts.service.prometheus import MetricsRegistry
from contracts.service.sampler_profiles import load_sampler_profiles
from contracts.service.settings import Settings
from orchestratord.app import RouteGroups
from orchestratord.clients.pools import PoolsClient, new_session
from orchestratord.clock import SystemClock
from orchestratord.domain.budgets import Price
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.sessions import SessionTable
from orchestratord.http.observability import ObservabilityRoutes
from orchestratord.http.pools import PoolRoutes
from orchestratord.http.sessions import SessionRoutes
from orchestratord.http.tasks import TaskRoutes
from orchestratord.runtime.admissions import Admissions
from orchestratord.runtime.arrivals import Arrivals
from orchestratord.runtime.attempt_tools import AttemptTools
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.housekeeping import Housekeeping
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.metrics_feed import MetricsFeed
from orchestratord.runtime.pool_changes import PoolChanges
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.runtime.prompt_counter import PromptCounter
from orchestratord.runtime.reconfiguration import (
    Configured,
    Reconfiguration,
    queue_rules,
    session_terms,
)
from orchestratord.runtime.recovery import Recovery
from orchestratord.runtime.sessions import Sessions
from orchestratord.runtime.shutdown import shut_down
from orchestratord.runtime.task_history import TaskHistory
from orchestratord.runtime.task_metrics import TaskMetrics
from orchestratord.stores.database import Database, open_database
from orchestratord.stores.sessions import SessionStore
from orchestratord.stores.tasks import TaskStore
from worker_adapters.registry import ENGINES
from worker_adapters.transport import EngineTransport

DATABASE_NAME = "orchestratord.sqlite"


@asynccontextmanager
async def open_service(settings: Settings, drain: Drain) -> AsyncIterator[Service]:
    """Recover, then serve; leaving the block stops every background task."""
    failpoints = Failpoints.parsed("orchestratord", settings.failpoints)
    async with (
        open_database(settings.state_dir / DATABASE_NAME, failpoints) as database,
        new_session() as session,
        EngineTransport() as transport,
        anyio.create_task_group() as group,
    ):
        client = PoolsClient(settings.state_dir, settings.token, session)
        yield await _open(settings, drain, database, client, transport, group, failpoints)
        group.cancel_scope.cancel()


async def _open(
    settings: Settings,
    drain: Drain,
    database: Database,
    client: PoolsClient,
    transport: EngineTransport,
    group: TaskGroup,
    failpoints: Failpoints,
) -> Service:
    config, clock = settings.config, SystemClock()
    registry = MetricsRegistry("orchestratord")
    metrics = TaskMetrics(registry)
    configured = Configured(config)
    specs = configured.specs
    scheduler = new_scheduler(config, specs)
    pools, shelf = PoolsView(config.gpus.reserve_bytes), LogShelf(config.streams)
    store, session_store = TaskStore(database), SessionStore(database)
    profiles = load_sampler_profiles(settings.state_dir)
    tools = AttemptTools(
        client,
        ENGINES,
        transport,
        store,
        clock,
        config.timeouts,
        failpoints,
        config.supervision,
        pools,
    )
    arrivals = Arrivals()
    dispatcher = Dispatcher(scheduler, pools, shelf, tools, arrivals, metrics, group)
    await Recovery(store, session_store, shelf, clock, scheduler, dispatcher).run(specs)
    admissions = Admissions(
        specs,
        scheduler,
        pools,
        PromptCounter(client, pools, ENGINES, transport),
        store,
        dispatcher,
        arrivals,
        metrics,
        clock,
        failpoints,
        await store.last_sequence(),
        profiles,
    )
    housekeeping = Housekeeping(
        dispatcher,
        pools,
        scheduler.sessions,
        shelf,
        store,
        session_store,
        clock,
        config.streams,
        group,
    )
    feed = MetricsFeed(dispatcher, scheduler, pools, shelf, store, clock, config.streams)
    group.start_soon(_follow_pools, client, dispatcher)
    group.start_soon(housekeeping.watch_clocks)
    group.start_soon(housekeeping.enforce_retention)
    group.start_soon(feed.run)
    group.start_soon(registry.watch_loop_lag)
    sessions = Sessions(scheduler.sessions, session_store, dispatcher, clock)
    history = TaskHistory(store, scheduler, pools, clock)
    routes = RouteGroups(
        tasks=TaskRoutes(admissions, dispatcher, shelf, history, config, drain),
        sessions=SessionRoutes(sessions, config.limits),
        pools=PoolRoutes(
            configured,
            pools,
            scheduler,
            PoolChanges(client, pools, dispatcher),
            config.limits,
            profiles,
        ),
        observability=ObservabilityRoutes(registry, drain),
    ).routes()
    app = build_app(routes, settings=settings, listen=config.orchestratord, drain=drain)
    reconfiguration = Reconfiguration(configured, settings, scheduler, dispatcher)
    return Service(
        app,
        stop=partial(shut_down, dispatcher, feed, config.timeouts.drain_ms),
        reload=reconfiguration.reload,
        alive=housekeeping.is_turning,
    )


def new_scheduler(config: Config, specs: list[PoolSpec]) -> Scheduler:
    """The scheduler of a configuration, with nothing in it yet."""
    return Scheduler(
        [spec.pool_id for spec in specs],
        queue_rules(config),
        SessionTable(session_terms(config)),
        Price.per_thousand(config.sessions.cost_per_1k_tokens),
    )


async def _follow_pools(client: PoolsClient, dispatcher: Dispatcher) -> None:
    async for snapshot in client.snapshots():
        dispatcher.see(snapshot)
