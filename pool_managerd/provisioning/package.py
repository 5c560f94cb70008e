"""`mode: package`: an engine from Python packages, in a virtual environment of its own.

Without a command of its own it is xllamacpp under the embedded server: our child
program with the environment's packages before ours, so that a wheel that knows the
machine's cards can be used.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from contracts.config import Package, Pool
from contracts.plans import MissingTool, PlanStep
from contracts.pools import FailureReason, Phase, Preparation
from pool_managerd.failure import LaunchRefused
from pool_managerd.provisioning.command import environment, filled
from pool_managerd.provisioning.launchers import PROGRAMS, launcher_of
from pool_managerd.provisioning.showing import launch_step
from pool_managerd.provisioning.tools import ProvisioningTools
from pool_managerd.provisioning.workshop import finish, key_of, making, run_tool
from worker_adapters.base import LaunchPlan, LaunchSpec

PIP = ("-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off")


async def provision(pool: Pool, spec: LaunchSpec, tools: ProvisioningTools) -> LaunchPlan:
    """The launch of one replica from its environment, which is made first if need be.

    Raises:
        LaunchRefused: downloads are off, or an installation failed.
    """
    config = _config(pool)
    async with making(tools.state_dir, _key(config)) as (place, room):
        if room is not None:
            _refuse_if_forbidden(pool, tools)
            await _make(config, room, place, tools)
    return plan(pool, spec, place)


def steps(pool: Pool, spec: LaunchSpec) -> list[PlanStep]:
    """Making the environment, once, and the launch."""
    config, place = _config(pool), Path("{state_dir}/engines") / _key(_config(pool))
    return [
        PlanStep(
            what="make an environment",
            argv=("{python}", "-m", "venv", "--clear", str(_environment(place))),
        ),
        PlanStep(
            what="install into it (needs policy.downloads.allow)",
            argv=(str(_python(place)), *PIP, *config.requirements),
        ),
        launch_step(plan(pool, spec, place)),
    ]


def missing(pool: Pool, spec: LaunchSpec) -> list[MissingTool]:  # noqa: ARG001
    """Python brings all that is needed."""
    return []


def plan(pool: Pool, spec: LaunchSpec, place: Path) -> LaunchPlan:
    """The launch of an environment that is there."""
    config = _config(pool)
    if config.command:
        argv = filled(config.command, spec, python=str(_python(place)))
        program = _environment(place) / "bin" / argv[0]
        argv = [str(program), *argv[1:], *spec.engine_args]
        return LaunchPlan(tuple(argv), environment(pool, spec))
    if pool.engine in PROGRAMS:
        program = _environment(place) / "bin" / PROGRAMS[pool.engine]
        return launcher_of(pool).plan(replace(spec, binary=str(program)))
    inner = launcher_of(pool).plan(spec)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = _environment(place) / "lib" / python / "site-packages"
    env = {**inner.env, **environment(pool, spec), "PYTHONPATH": str(packages)}
    return LaunchPlan(inner.argv, env)


def _environment(place: Path) -> Path:
    return place.with_name(f"{place.name}.environment")


def _python(place: Path) -> Path:
    return _environment(place) / "bin" / "python"


async def _make(config: Package, room: Path, place: Path, tools: ProvisioningTools) -> None:
    since_ms = tools.unix_ms()

    def tell(line: str) -> None:
        what = line[:512] or ", ".join(config.requirements)[:512]
        tools.preparing(Preparation(phase=Phase.INSTALLING, what=what, since_ms=since_ms))

    tell("making an environment")
    try:
        # Scripts of an environment name the place they were made in, so that it cannot
        # be moved: an empty directory in its place says that it is whole.
        environment, whole = _environment(place), room / "whole"
        await run_tool((sys.executable, "-m", "venv", "--clear", str(environment)), room, tell)
        await run_tool((str(_python(place)), *PIP, *config.requirements), room, tell)
        await anyio.to_thread.run_sync(whole.mkdir)
        finish(whole, place)
    finally:
        tools.preparing(None)


def _refuse_if_forbidden(pool: Pool, tools: ProvisioningTools) -> None:
    if not tools.downloads_allowed:
        raise LaunchRefused(
            FailureReason.DOWNLOAD_DENIED,
            f"pool {pool.id}: its packages are not installed, and downloads are off;"
            " set policy.downloads.allow, then restart pool_managerd",
        )


def _key(config: Package) -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    return key_of({"python": version, "requirements": list(config.requirements)})


def _config(pool: Pool) -> Package:
    assert isinstance(pool.provisioning, Package)
    return pool.provisioning
