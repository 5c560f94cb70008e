"""A reload where there is no room for two engines at once."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from contracts.config import Pool
from contracts.pools import ReplicaState
from contracts.service.failpoints import Failpoints
from pool_managerd.changeover import Changeover, ExchangeFailed, Terms
from pool_managerd.clock import SystemClock
from pool_managerd.fleet import Fleet
from pool_managerd.launch_tools import LaunchTools
from pool_managerd.leasing import Leasing
from pool_managerd.models.digest import ModelDigests
from pool_managerd.procfs import session_members
from pool_managerd.replica import Replica, ReplicaEntry
from pool_managerd.run_records import RunRecords
from pool_managerd.telemetry.none import NoSource
from pool_managerd.telemetry.sampler import Sampler
from test_harness.supervised import PATIENCE, SupervisorHarness, fake_command
from worker_adapters.transport import EngineTransport

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TERMS = Terms(start_s=10.0, cut_ms=500, probation_s=0.2)


class Bench:
    """A fleet with one pool of two entries, and a changeover without room."""

    def __init__(self, harness: SupervisorHarness, fleet: Fleet, leasing: Leasing) -> None:
        self.harness, self.fleet, self.leasing = harness, fleet, leasing
        self.members: dict[int, str] = {}
        self.told: list[str] = []
        self.most_processes = 0

    def pool(self, *options: str, **changes: Any) -> Pool:
        entries: list[dict[str, Any]] = [{"devices": []}, {"devices": []}]
        return self.harness.pool(*options, replicas=entries, **changes)

    def start(self, pool: Pool) -> None:
        for index in range(len(pool.replicas)):
            entry = ReplicaEntry(pool, 0, index)
            self.fleet.add(entry)
            self.members[index] = entry.replica_id

    async def change_to(self, pool: Pool) -> None:
        async def no_room(_: ReplicaEntry) -> bool:
            return False

        changeover = Changeover(
            self.fleet,
            self.leasing,
            SystemClock(),
            self.members,
            TERMS,
            no_room,
            self.tell,
        )
        with anyio.fail_after(60):
            await changeover.run(pool)

    def tell(self, message: str) -> None:
        self.told.append(message)
        alive = [r for r in self.replicas() if r.pid is not None]
        self.most_processes = max(self.most_processes, len(alive))

    def replicas(self) -> list[Replica]:
        return self.fleet.of("p")

    async def settle(self) -> None:
        for replica in self.replicas():
            await self.fleet.supervisor(replica.entry.replica_id).settled()


@asynccontextmanager
async def bench(harness: SupervisorHarness) -> AsyncIterator[Bench]:
    clock, records = SystemClock(), RunRecords(harness.state_dir)
    replicas: dict[str, Replica] = {}
    leasing = Leasing(replicas, clock, lambda: None, Failpoints.none())
    async with EngineTransport() as transport, anyio.create_task_group() as group:
        telemetry = Sampler(NoSource(), clock, lambda: None)
        tools = LaunchTools(
            records=records,
            telemetry=telemetry,
            digests=ModelDigests(harness.state_dir),
            transport=transport,
            state_dir=harness.state_dir,
            stop_grace_ms=500,
            clock=clock,
            leasing=leasing,
            patience=PATIENCE,
            start_timeout_s=10.0,
        )
        group.start_soon(telemetry.run)
        fleet = Fleet(replicas, tools, {}, lambda _: None, group)
        it = Bench(harness, fleet, leasing)
        try:
            yield it
        finally:
            with anyio.CancelScope(shield=True):
                await fleet.stop()
            group.cancel_scope.cancel()


async def test_without_room_each_engine_is_ended_before_its_successor_starts(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-164: never more processes than entries, and the numbers stay."""
    async with bench(harness) as it:
        it.start(it.pool())
        await it.settle()
        before = {replica.entry.replica_id: replica.pid for replica in it.replicas()}
        await it.change_to(it.pool(ctx=200))
        after = {replica.entry.replica_id: replica.pid for replica in it.replicas()}
        assert set(after) == set(before)
        assert not set(after.values()) & set(before.values())
        assert not any(session_members(pid) for pid in before.values() if pid)
        assert it.most_processes <= 2
        assert {replica.state for replica in it.replicas()} == {ReplicaState.READY}


async def test_without_room_a_failure_brings_every_old_engine_back(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-166: the second entry fails, so that the first is exchanged back too."""
    code = (
        "import os,sys;index=sys.argv[1];argv=sys.argv[2:];mark='%s';"
        "first=not os.path.exists(mark);open(mark,'a').close();"
        "fault=[] if index=='good' or first else ['--fault','bad-model'];"
        "os.execv(argv[0],[*argv,*fault])"
    ) % (harness.root / "mark")

    def pool(which: str) -> Pool:
        command = [sys.executable, "-c", code, which, *fake_command()]
        return it.pool(provisioning={"mode": "command", "command": command})

    async with bench(harness) as it:
        it.start(pool("good"))
        await it.settle()
        (harness.root / "mark").unlink()
        with pytest.raises(ExchangeFailed):
            await it.change_to(pool("bad"))
        await it.settle()
        assert [replica.state for replica in it.replicas()] == [ReplicaState.READY] * 2
        commands = [replica.entry.pool.provisioning.model_dump() for replica in it.replicas()]
        assert all("good" in command["command"] for command in commands)
        assert it.most_processes <= 2
