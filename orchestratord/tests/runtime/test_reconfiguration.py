"""A configuration that is read again while tasks wait and run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from contracts.config import Config
from contracts.errors import ErrorCode
from contracts.service.settings import Secret, Settings
from orchestratord.runtime.reconfiguration import Configured, Reconfiguration
from orchestratord.tests.builders import configured, pool_view, replica
from orchestratord.tests.runtime.world import END, World, error_of, world_at
from worker_adapters.base import Token

pytestmark = pytest.mark.anyio


def settings_of(path: Path, *pools: str, **sections: Any) -> Settings:
    tree = {"pools": [configured(name).model_dump(mode="json") for name in pools], **sections}
    return Settings(Config.model_validate_json(json.dumps(tree)), path, path, Secret("t" * 32))


def reconfiguration(world: World, settings: Settings) -> tuple[Configured, Reconfiguration]:
    known = Configured(settings.config)
    return known, Reconfiguration(known, settings, world.scheduler, world.dispatcher)


async def test_a_pool_that_is_taken_out_ends_what_waits_and_not_what_runs(path: Path) -> None:
    """LO-ORC-159, LO-ORC-160."""
    async with world_at(path) as world:
        gate = asyncio.Event()
        world.play([Token("a"), gate, END])
        runs = await world.submit()
        await world.until(runs, "token")
        waits = [await world.submit() for _ in range(100)]
        known, it = reconfiguration(world, settings_of(path, "chat"))
        await it.reload(settings_of(path, "more"))
        assert [spec.pool_id for spec in known.specs] == ["more"]
        for task in waits:
            assert error_of(await world.frames(task)) is ErrorCode.POOL_UNAVAILABLE
        gate.set()
        assert (await world.frames(runs))[-1].name == "end"
        assert world.scheduler.waiting("more") == 0


async def test_a_pool_that_comes_back_serves_again(path: Path) -> None:
    """LO-ORC-159."""
    async with world_at(path) as world:
        _, it = reconfiguration(world, settings_of(path, "chat"))
        await it.reload(settings_of(path))
        await it.reload(settings_of(path, "chat", queue={"capacity": 1}))
        world.see(pool_view(replica()), version=2)
        assert (await world.frames(await world.submit()))[-1].name == "end"


async def test_what_waits_for_a_restart_is_named_and_not_obeyed(path: Path) -> None:
    """LO-ORC-159."""
    async with world_at(path) as world:
        known, it = reconfiguration(world, settings_of(path, "chat"))
        changed = settings_of(
            path,
            "chat",
            orchestratord={"port": 9},
            sessions={"max_turns": 3, "cost_per_1k_tokens": 1.0},
            queue={"capacity": 7},
        )
        with capture_logs() as logs:
            await it.reload(changed)
        told = [line["keys"] for line in logs if line["event"] == "config_needs_restart"]
        assert told == [["orchestratord.port", "sessions.cost_per_1k_tokens"]]
        assert (known.config.queue.capacity, known.config.sessions.max_turns) == (7, 3)
        assert known.config.sessions.cost_per_1k_tokens == 0
        assert known.config.orchestratord.port == 8700
        assert world.scheduler.sessions.defaults.max_turns == 3
