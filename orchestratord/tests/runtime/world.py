"""Everything below HTTP, with a real database, a clock moved by hand and engines that are told."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from sqlite3 import Connection, Row, connect
from typing import Any

import anyio
from anyio.abc import TaskGroup

from contracts.config import Streams, Supervision, Timeouts
from contracts.errors import ErrorCode
from contracts.ids import new_uuid
from contracts.model import Contract
from contracts.pools import DeviceView, Endpoint, Lease, PoolChange, PoolView, ReplicaView
from contracts.service.failpoints import Failpoints
from contracts.service.prometheus import MetricsRegistry
from contracts.service.sampler_profiles import load_sampler_profiles
from orchestratord.clients.pools import LeaseRefused, PoolManagerAway, PoolsClient
from orchestratord.domain.budgets import Limits, Price
from orchestratord.domain.decisions import QueueRules
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.sessions import SessionTable, SessionTerms
from orchestratord.runtime.admissions import Accepted, Admissions
from orchestratord.runtime.arrivals import Arrivals
from orchestratord.runtime.attempt import Attempt
from orchestratord.runtime.attempt_tools import AttemptTools
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.event_log import EventLog
from orchestratord.runtime.housekeeping import Housekeeping
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.metrics_feed import MetricsFeed
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.runtime.prompt_counter import PromptCounter
from orchestratord.runtime.recovery import Recovery
from orchestratord.runtime.sessions import Sessions
from orchestratord.runtime.shutdown import shut_down
from orchestratord.runtime.task_history import TaskHistory
from orchestratord.runtime.task_metrics import TaskMetrics
from orchestratord.stores.database import Database, open_database
from orchestratord.stores.sessions import SessionStore
from orchestratord.stores.tasks import TaskStore
from orchestratord.tests.builders import TASK_ID, pool_view, replica, snapshot, task_request
from orchestratord.tests.runtime.frames import Frame, parse, read
from worker_adapters.base import EngineClient, Finished, Token
from worker_adapters.errors import EngineError
from worker_adapters.registry import Engine
from worker_adapters.scripted import ScriptedClient, Step
from worker_adapters.transport import EngineTransport

WIDE = PoolSpec("chat", "llamacpp", "tiny", "file:/models/tiny", ctx=1_000_000)
END = Finished(finish_reason="stop", tokens_in=3, tokens_out=2, cached_tokens=0)
GREETING: tuple[Step, ...] = (Token("hel"), Token("lo"), END)
LOOK_S = 0.5
PATIENCE_S = 10.0
"""A bound on what should take milliseconds."""


@dataclass
class HandClock:
    """Time that stands still until it is told to go on."""

    seconds: float = 1_000.0
    epoch_ms: int = 1_700_000_000_000

    def now(self) -> float:
        return self.seconds

    def unix_ms(self) -> int:
        return self.epoch_ms

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.epoch_ms += round(seconds * 1000)


class PoolFault(StrEnum):
    """A way for pool_managerd to say no."""

    REFUSED = "refused"
    AWAY = "away"
    NOT_READY = "not ready"


class PoolsStandIn(PoolsClient):
    """Leases without a pool_managerd: `faults` are played to each acquire in turn."""

    def __init__(self) -> None:
        self.holder = new_uuid()
        self.faults: deque[PoolFault] = deque()
        self.renewal_fault: PoolFault | None = None
        self.held: dict[str, str] = {}
        self.epochs: list[tuple[str, int]] = []
        self.renewals = 0
        self.idle: list[int | None] = []
        self.changes: dict[str, PoolChange | Exception] = {}
        """What is answered to a drain, a reload or a resume."""
        self.preferred: list[int | None] = []
        self.endpoints = 0
        self.release_allowed = anyio.Event()
        self.release_allowed.set()

    async def acquire(
        self,
        replica_id: str,
        task_id: str,
        epoch: int,
        correlation_id: str,
        preferred_slot: int | None = None,
    ) -> Lease:
        self.epochs.append((replica_id, epoch))
        self.preferred.append(preferred_slot)
        if self.faults:
            _play(self.faults.popleft())
        slot = preferred_slot or 0
        lease = Lease(lease_id=new_uuid(), base_url="http://127.0.0.1:9", api_key=None, slot=slot)
        self.held[lease.lease_id] = replica_id
        return lease

    async def renew(
        self,
        lease: Lease,
        replica_id: str,
        task_id: str,
        epoch: int,
        idle_ms: int | None = None,
    ) -> None:
        if self.renewal_fault is not None:
            _play(self.renewal_fault)
        self.idle.append(idle_ms)
        self.held[lease.lease_id] = replica_id
        self.renewals += 1

    async def _change(
        self, pool_id: str, change: str, wanted: Contract | None, correlation_id: str
    ) -> PoolChange:
        answer = self.changes[change]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def endpoint(self, replica_id: str) -> Endpoint:
        self.endpoints += 1
        if self.faults:
            _play(self.faults.popleft())
        return Endpoint(base_url="http://127.0.0.1:9", api_key=None)

    async def release(self, lease: Lease, correlation_id: str, *, stalled: bool = False) -> None:
        await self.release_allowed.wait()
        del self.held[lease.lease_id]


def _play(fault: PoolFault) -> None:
    if fault is PoolFault.AWAY:
        raise PoolManagerAway(fault)
    raise LeaseRefused(fault, not_ready=fault is PoolFault.NOT_READY)


@dataclass
class Engines:
    """Hands each attempt the next script, or the greeting when none is left."""

    scripts: deque[Sequence[Step]] = field(default_factory=deque)
    clients: list[ScriptedClient] = field(default_factory=list)
    defect: Exception | None = None
    counters: list[ScriptedClient] = field(default_factory=list)
    uncountable: EngineError | None = None

    def counter(self, _transport: EngineTransport, _url: str, _key: str | None) -> EngineClient:
        """A client that is asked for the size of a prompt; a word is a token."""
        if self.uncountable is not None:
            raise self.uncountable
        self.counters.append(ScriptedClient(()))
        return self.counters[-1]

    def client(self, _transport: EngineTransport, _url: str, _key: str | None) -> EngineClient:
        if self.defect is not None:
            defect, self.defect = self.defect, None
            raise defect
        self.clients.append(ScriptedClient(self.scripts.popleft() if self.scripts else GREETING))
        return self.clients[-1]

    @property
    def table(self) -> Mapping[str, Engine]:
        return {"llamacpp": Engine("llamacpp", {}, self.client)}


@dataclass
class World:
    """The parts of a daemon, and shorthands for what tests do with them."""

    path: Path
    clock: HandClock
    engines: Engines
    leases: PoolsStandIn
    database: Database
    store: TaskStore
    scheduler: Scheduler
    pools: PoolsView
    shelf: LogShelf
    admissions: Admissions
    dispatcher: Dispatcher
    housekeeping: Housekeeping
    feed: MetricsFeed
    history: TaskHistory
    sessions: Sessions
    recovery: Recovery
    registry: MetricsRegistry
    group: TaskGroup

    def play(self, *scripts: Sequence[Step]) -> None:
        """What the next attempts will see, one script each."""
        self.engines.scripts.extend(scripts)

    def serve(self, *replicas: ReplicaView, devices: Sequence[DeviceView] = ()) -> None:
        """A snapshot with these replicas came in."""
        self.dispatcher.see(snapshot(pool_view(*replicas), devices=devices))

    def see(self, *pools: PoolView, version: int = 1, instance_id: str = TASK_ID) -> None:
        """A snapshot with these pools came in."""
        self.dispatcher.see(snapshot(*pools, version=version, instance_id=instance_id))

    async def submit(self, task_id: str | None = None, **fields: Any) -> Accepted:
        return await self.admissions.submit(task_request(task_id=task_id, **fields), "c-1")

    def position(self, task: Accepted | str) -> int | None:
        """Tasks ahead of it as of now."""
        task_id = task if isinstance(task, str) else task.task_id
        return self.scheduler.position(task_id, self.clock.now())

    async def stop(self, drain_ms: int) -> None:
        """What the daemon does at SIGTERM."""
        await shut_down(self.dispatcher, self.feed, drain_ms)

    def log(self, task: Accepted | str) -> EventLog:
        found = self.shelf.get(task if isinstance(task, str) else task.task_id)
        assert found is not None
        return found

    async def frames(self, task: Accepted | str) -> list[Frame]:
        """The whole stream, to its end."""
        with anyio.fail_after(PATIENCE_S):
            return parse(await read(self.log(task)))

    async def until(self, task: Accepted | str, name: str) -> None:
        """Wait for the first event of this name."""
        with anyio.fail_after(PATIENCE_S):
            async for batch in self.log(task).follow(0):
                if any(frame.name == name for frame in parse(batch)):
                    return
        raise AssertionError(f"the stream ended without `{name}`")

    async def row(self, task: Accepted | str) -> Row:
        row = await self.store.get(task if isinstance(task, str) else task.task_id)
        assert row is not None
        return row

    def attempt_of(self, task: Accepted) -> Attempt:
        """The attempt under way."""
        return next(a for t, a in self.dispatcher.attempts if t.new.task_id == task.task_id)

    async def pass_time(self, seconds: float) -> None:
        """Move the clock as time passes: with a look at everything at least every half second."""
        end = self.clock.now() + seconds
        while self.clock.now() + LOOK_S < end:
            self.clock.advance(LOOK_S)
            self.housekeeping.tick(self.clock.now())
        self.clock.advance(end - self.clock.now())
        self.housekeeping.tick(self.clock.now())
        await anyio.lowlevel.checkpoint()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another process holds the database for as long as the block lasts."""
        other = connect(self.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()


NO_LIMITS = SessionTerms(600_000, 8, Limits())


@asynccontextmanager
async def world_at(
    path: Path,
    *,
    clock: HandClock | None = None,
    specs: Sequence[PoolSpec] = (WIDE,),
    capacity: int = 256,
    rules: QueueRules | None = None,
    terms: SessionTerms = NO_LIMITS,
    price: float = 0.0,
    slots: int = 1,
    recover: bool = False,
    streams: Streams | None = None,
    failpoints: Failpoints | None = None,
    supervision: Supervision | None = None,
) -> AsyncIterator[World]:
    """A daemon's life; leaving the block is a kill: nothing is finished, nothing is told."""
    clock, engines, leases = clock or HandClock(), Engines(), PoolsStandIn()
    streams, registry = streams or Streams(), MetricsRegistry("orchestratord")
    failpoints = failpoints or Failpoints.none()
    async with open_database(path, failpoints) as database, anyio.create_task_group() as group:
        await database._writer.call(_impatient)
        store, session_store = TaskStore(database), SessionStore(database)
        scheduler = Scheduler(
            [s.pool_id for s in specs],
            rules or QueueRules(capacity),
            SessionTable(terms),
            Price.per_thousand(price),
        )
        pools, shelf, transport = PoolsView(), LogShelf(streams), EngineTransport()
        tools = AttemptTools(
            leases,
            engines.table,
            transport,
            store,
            clock,
            Timeouts(),
            failpoints,
            supervision or Supervision(),
            pools,
        )
        metrics = TaskMetrics(registry)
        arrivals = Arrivals()
        dispatcher = Dispatcher(scheduler, pools, shelf, tools, arrivals, metrics, group)
        admissions = Admissions(
            specs,
            scheduler,
            pools,
            PromptCounter(
                leases, pools, {"llamacpp": Engine("llamacpp", {}, engines.counter)}, transport
            ),
            store,
            dispatcher,
            arrivals,
            metrics,
            clock,
            failpoints,
            await store.last_sequence(),
            load_sampler_profiles(path.parent),
        )
        recovery = Recovery(store, session_store, shelf, clock, scheduler, dispatcher)
        housekeeping = Housekeeping(
            dispatcher,
            pools,
            scheduler.sessions,
            shelf,
            store,
            session_store,
            clock,
            streams,
            group,
        )
        world = World(
            path=path,
            clock=clock,
            engines=engines,
            leases=leases,
            database=database,
            store=store,
            scheduler=scheduler,
            pools=pools,
            shelf=shelf,
            admissions=admissions,
            dispatcher=dispatcher,
            housekeeping=housekeeping,
            feed=MetricsFeed(dispatcher, scheduler, pools, shelf, store, clock, streams),
            history=TaskHistory(store, scheduler, pools, clock),
            sessions=Sessions(scheduler.sessions, session_store, dispatcher, clock),
            recovery=recovery,
            registry=registry,
            group=group,
        )
        if recover:
            await recovery.run(specs)
        if slots:
            world.serve(replica(0, slots=slots))
        yield world
        group.cancel_scope.cancel()


def _impatient(connection: Connection) -> None:
    connection.execute("PRAGMA busy_timeout = 1")


def error_of(frames: Sequence[Frame]) -> ErrorCode:
    """The code of the stream's last event, which is its only terminal one."""
    assert [f.name for f in frames if f.name in ("end", "error")] == ["error"]
    assert frames[-1].name == "error"
    return ErrorCode(frames[-1].data["code"])
