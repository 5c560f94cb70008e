"""A supervised stand-in engine: real processes, short times, one state directory."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from contracts.config import External, Pool
from contracts.pools import ReplicaState
from contracts.service.failpoints import Failpoints
from pool_managerd.clock import SystemClock
from pool_managerd.external_life import ExternalLife
from pool_managerd.launch_tools import LaunchTools
from pool_managerd.leasing import Leasing
from pool_managerd.life import Life
from pool_managerd.models.digest import ModelDigests
from pool_managerd.models.resolve import ModelResolver
from pool_managerd.process_group import end_group
from pool_managerd.process_life import ProcessLife
from pool_managerd.replica import Replica, ReplicaEntry
from pool_managerd.run_records import RunRecords
from pool_managerd.supervisor import Supervisor
from pool_managerd.telemetry.none import NoSource
from pool_managerd.telemetry.sampler import Sampler
from pool_managerd.watching import Patience
from worker_adapters.transport import EngineTransport

WAIT_S = 20.0
PATIENCE = Patience(stall_ms=30_000, first_token_ms=120_000, canary_ms=60_000)
QUICK = {"base_ms": 20, "cap_ms": 100, "intensity": 1000, "window_ms": 1, "stable_ms": 60_000}


def fake_command(*options: str) -> list[str]:
    """The argv of a stand-in engine, as `provisioning.command` has it."""
    return [
        *(sys.executable, "-m", "test_harness.fake_engines.llamacpp", "--port", "{port}"),
        *("--slots", "{slots}", "--ctx", "{ctx}", *options),
    ]


@dataclass
class Supervised:
    """A replica under a supervisor that runs, and every state it was seen in."""

    supervisor: Supervisor
    records: RunRecords
    states: list[ReplicaState] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def replica(self) -> Replica:
        return self.supervisor.replica

    def note(self, replica: Replica) -> None:
        if not self.states or self.states[-1] is not replica.state:
            self.states.append(replica.state)
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, seen: Callable[[Replica], bool]) -> None:
        """Wait until the replica is as `seen` wants it."""
        with anyio.fail_after(WAIT_S):
            while not seen(self.replica):
                await self.changed.wait()

    async def until_state(self, state: ReplicaState) -> None:
        await self.until(lambda replica: replica.state is state)


class SupervisorHarness:
    """Makes supervised replicas in one state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state_dir = root / "state"
        self.state_dir.mkdir(mode=0o700)
        self.model = root / "model.gguf"
        self.model.write_bytes(b"any file will do")

    def pool(self, *options: str, **changes: Any) -> Pool:
        """A pool of one stand-in engine."""
        fields: dict[str, Any] = {
            "id": "p",
            "engine": "llamacpp",
            "model": {"id": "m", "ref": f"file:{self.model}"},
            "ctx": 128,
            "slots": 2,
            "replicas": [{"devices": []}],
            "provisioning": {"mode": "command", "command": fake_command(*options)},
            "restart": QUICK,
        }
        return Pool.model_validate(fields | changes, strict=False)

    @asynccontextmanager
    async def supervise(
        self,
        pool: Pool,
        *,
        grace_ms: int = 2_000,
        start_timeout_s: float = 15.0,
        patience: Patience = PATIENCE,
        models: ModelResolver | None = None,
    ) -> AsyncIterator[Supervised]:
        """Run a supervisor for the pool's first replica, and stop it at the end."""
        clock = SystemClock()
        sampler = Sampler(NoSource(), clock, lambda: None)
        records = RunRecords(self.state_dir)
        async with EngineTransport() as transport, anyio.create_task_group() as group:
            leasing = Leasing({}, clock, lambda: None, Failpoints.none())
            tools = LaunchTools(
                clock=clock,
                leasing=leasing,
                patience=patience,
                records=records,
                telemetry=sampler,
                digests=ModelDigests(self.state_dir),
                transport=transport,
                state_dir=self.state_dir,
                stop_grace_ms=grace_ms,
                models=models or ModelResolver.files_only(),
                start_timeout_s=start_timeout_s,
            )
            seen: list[Supervised] = []
            replica = Replica(ReplicaEntry(pool, 0, 0), clock, lambda r: seen[0].note(r))
            life: Life = ProcessLife(replica, tools)
            if isinstance(pool.provisioning, External):
                life = ExternalLife(replica, tools)
            supervised = Supervised(Supervisor(replica, life, clock, lambda: 0.5), records)
            seen.append(supervised)
            group.start_soon(sampler.run)
            group.start_soon(tools.log_keeper.run)
            group.start_soon(supervised.supervisor.run)
            try:
                yield supervised
            finally:
                with anyio.CancelScope(shield=True), anyio.fail_after(WAIT_S):
                    await supervised.supervisor.stop()
                    # A supervisor that crashed leaves its engine, on purpose; a test does not.
                    for record in records.read_all():
                        await end_group(record.group, 0)
                group.cancel_scope.cancel()
