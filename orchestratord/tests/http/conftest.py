"""The real application on a real port, over a real database and engines that are told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from contracts.config import Config
from contracts.service.app import build_app
from contracts.service.drain import Drain
from contracts.service.sampler_profiles import load_sampler_profiles
from contracts.service.serve import listen, serve
from contracts.service.settings import Secret, Settings
from contracts.tests.conftest import TOKEN, Answer, Served
from orchestratord.app import RouteGroups
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.http.observability import ObservabilityRoutes
from orchestratord.http.pools import PoolRoutes
from orchestratord.http.sessions import SessionRoutes
from orchestratord.http.tasks import TaskRoutes
from orchestratord.runtime.pool_changes import PoolChanges
from orchestratord.runtime.reconfiguration import Configured
from orchestratord.tests.runtime.world import World, world_at

SPEC = PoolSpec("chat", "llamacpp", "tiny", "file:/models/tiny", ctx=512)


@dataclass
class Site(Served):
    """A daemon that is reached over HTTP, and the world behind it."""

    world: World | None = None

    @property
    def behind(self) -> World:
        assert self.world is not None
        return self.world

    async def post(self, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        """Send a task that is fine but for `fields`."""
        body = {"model": "tiny", "prompt": "once", "max_tokens": 8} | fields
        return await self.ask("POST", "/v1/tasks", json.dumps(body).encode(), headers)


Opening = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def site(tmp_path: Path) -> Opening:
    """`async with site(slots=0, limits={...}) as it`: a daemon on a free port."""

    @asynccontextmanager
    async def start(
        slots: int = 1, capacity: int = 256, **sections: dict[str, Any]
    ) -> AsyncIterator[Site]:
        tree = {"orchestratord": {"port": 0}, **sections}
        config = Config.model_validate_json(json.dumps(tree))
        settings = Settings(config, tmp_path / "config.yaml", tmp_path, Secret(TOKEN))
        listener = listen(config.orchestratord, "orchestratord")
        path = tmp_path / "orchestratord.sqlite"
        async with world_at(path, specs=(SPEC,), slots=slots, capacity=capacity) as world:
            drain = Drain(config.limits.streams)
            configured = Configured(config)
            configured.specs[:] = [SPEC]
            it = Site(listener.getsockname()[1], drain, world=world)
            routes = RouteGroups(
                tasks=TaskRoutes(
                    world.admissions, world.dispatcher, world.shelf, world.history, config, drain
                ),
                sessions=SessionRoutes(world.sessions, config.limits),
                pools=PoolRoutes(
                    configured,
                    world.pools,
                    world.scheduler,
                    PoolChanges(world.leases, world.pools, world.dispatcher),
                    config.limits,
                    load_sampler_profiles(tmp_path),
                ),
                observability=ObservabilityRoutes(world.registry, drain),
            ).routes()
            app = build_app(routes, settings=settings, listen=config.orchestratord, drain=drain)

            async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
                await serve(app, listener, config.limits, it.closing.wait, task_status=task_status)

            async with anyio.create_task_group() as tasks:
                await tasks.start(run)
                yield it
                drain.begin()
                it.closing.set()

    return start
