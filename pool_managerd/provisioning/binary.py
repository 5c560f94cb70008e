"""`mode: binary`: an engine's own server program, on this machine or fetched and verified."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from contracts.config import Binary, Pool
from contracts.plans import MissingTool, PlanStep
from contracts.pools import FailureReason
from contracts.service.settings import child_environment
from pool_managerd.failure import LaunchRefused
from pool_managerd.provisioning.showing import launch_step
from pool_managerd.provisioning.tools import ProvisioningTools
from worker_adapters.base import LaunchPlan, LaunchSpec
from worker_adapters.registry import ENGINES

INSTALL = {
    "llamacpp": "install llama.cpp's llama-server",
    "vllm": "install vLLM (`pip install vllm`)",
    "tgi": "install text-generation-launcher",
    "triton": "install tritonserver",
}


async def provision(pool: Pool, spec: LaunchSpec, tools: ProvisioningTools) -> LaunchPlan:
    """The launch of one replica of a program, which is fetched first where it has a URL.

    Raises:
        LaunchRefused: there is no such program, or it cannot be fetched.
    """
    config = _config(pool)
    if config.url is None:
        return await anyio.to_thread.run_sync(_installed, pool, spec)
    assert config.digest is not None
    fetched = await tools.models.fetch(
        config.url, config.digest, tools.preparing, holder=f"{tools.holder}:binary"
    )
    await anyio.to_thread.run_sync(fetched.chmod, 0o700)
    return plan(pool, spec, str(fetched))


def steps(pool: Pool, spec: LaunchSpec) -> list[PlanStep]:
    """What `provision` and the launch will do."""
    config = _config(pool)
    if config.path is not None:
        return [launch_step(plan(pool, spec, located(config.path) or config.path))]
    return [
        PlanStep(what=f"fetch {config.url} into the cache; it must have {config.digest}"),
        launch_step(plan(pool, spec, "{cached}")),
    ]


def missing(pool: Pool, spec: LaunchSpec) -> list[MissingTool]:  # noqa: ARG001
    """The program itself, where it is to be on this machine."""
    path = _config(pool).path
    if path is None or located(path) is not None:
        return []
    return [MissingTool(tool=path, remedy=INSTALL.get(pool.engine, f"install {pool.engine}"))]


def plan(pool: Pool, spec: LaunchSpec, program: str) -> LaunchPlan:
    """The launch of a program that is there."""
    return ENGINES[pool.engine].launchers["binary"].plan(replace(spec, binary=program))


def located(program: str) -> str | None:
    """The path of a program as the engine's own environment finds it; None: not there."""
    environment = child_environment()
    if program.startswith("~/"):
        program = str(Path(environment.get("HOME", "/")) / program[2:])
    return shutil.which(program, path=environment.get("PATH"))


def _installed(pool: Pool, spec: LaunchSpec) -> LaunchPlan:
    named = _config(pool).path
    assert named is not None
    path = located(named)
    if path is None:
        raise LaunchRefused(
            FailureReason.TOOL_MISSING,
            f"pool {pool.id}: there is no program {named};"
            f" {INSTALL.get(pool.engine, f'install {pool.engine}')} and put it on PATH, or set"
            " provisioning.path, then restart pool_managerd",
        )
    return plan(pool, spec, path)


def _config(pool: Pool) -> Binary:
    assert isinstance(pool.provisioning, Binary)
    return pool.provisioning
