"""Collects a proof from daemons that are killed and started again in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from contracts.pools import PoolHealth, ReplicaState, ReplicaView
from contracts.proofs import Bar, Control, Header, Round, Run
from contracts.service.settings import Secret
from llama_orch.api import Api
from llama_orch.connection import Connection
from llama_orch.determinism.collector import Collector, controls
from llama_orch.determinism.load import Load
from llama_orch.determinism.proof_file import Evidence
from llama_orch.determinism.prove import write_judged
from llama_orch.determinism.subject import Ask, header_of
from test_harness.stack import Stack, wait_for

POOL, OTHER = "chat", "other"
REPLICAS = (f"{POOL}/0", f"{POOL}/1")


@dataclass
class Proving:
    """One proof in the making, about one stack."""

    stack: Stack
    ask: Ask
    header: Header
    runs: list[Run] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    load_tasks: int = 0
    """Tasks that ran beside the seeds of the loaded round."""

    @classmethod
    def begin(cls, stack: Stack, ask: Ask, created_ms: int) -> Proving:
        """A proof about the pool as it serves now."""

        async def look() -> Header:
            async with Api(connection_to(stack)) as api:
                return await header_of(api, ask, created_ms)

        return cls(stack, ask, anyio.run(look))

    def round(self, name: Round) -> None:
        """Run every seed on every replica."""
        anyio.run(self._round, name)

    def control(self, seeds: int) -> None:
        """Run the first seeds on the pool of another model."""
        anyio.run(partial(self._control, seeds))

    def bar(self, seen: ReplicaView) -> None:
        """Note a replica that another model keeps from serving."""
        assert seen.last_error is not None
        self.bars.append(
            Bar(
                differs_by="model",
                replica_id=seen.replica_id,
                state=seen.state,
                reason=seen.last_error.reason,
                message=seen.last_error.message,
            )
        )

    def write(self, path: Path) -> None:
        """The proof, sealed."""
        evidence: list[Evidence] = [*self.runs, *self.controls, *self.bars]
        write_judged(path, self.header, evidence)

    async def _round(self, name: Round) -> None:
        collector = Collector(self.header, self.runs.append, lambda: None)
        async with Api(connection_to(self.stack)) as api:
            if name is not Round.LOADED:
                await collector.round(api, name)
                return
            load = Load(api, self.ask.pool_id, self.ask.prompt, len(REPLICAS))
            await collector.round(api, name, load.running())
            self.load_tasks = load.started

    async def _control(self, seeds: int) -> None:
        async with Api(connection_to(self.stack)) as api:
            asked = self.ask.request(OTHER)
            self.controls += await controls(api, asked, self.ask.seeds[:seeds], lambda: None)


def connection_to(stack: Stack) -> Connection:
    """The stack's orchestratord, as the command connects to it."""
    return Connection(stack.url, Secret(stack.token), "the test's own state directory")


def replicas(stack: Stack) -> list[ReplicaView]:
    """The replicas of the proven pool, as the public API tells."""
    with stack.client() as client:
        health = client.get(f"/v1/pools/{POOL}/health")
    return list(PoolHealth.model_validate_json(health.content).replicas)


def wait_for_replica(
    stack: Stack, index: int, seen: Callable[[ReplicaView], Any], what: str
) -> ReplicaView:
    """Wait until a replica of the proven pool is as `seen` wants it."""

    def look() -> ReplicaView | None:
        replica = replicas(stack)[index]
        return replica if seen(replica) else None

    return wait_for(look, f"{POOL}/{index} {what}")


def kill_engine(stack: Stack, index: int) -> int:
    """SIGKILL the engine of a replica; returns its pid."""
    pid = replicas(stack)[index].pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    return pid


def restart_engine(stack: Stack, index: int) -> None:
    """SIGKILL the engine of a replica, and wait until another process serves."""
    dead = kill_engine(stack, index)
    wait_for_replica(
        stack,
        index,
        lambda replica: replica.pid not in (None, dead) and replica.state is ReplicaState.READY,
        "serves again",
    )
