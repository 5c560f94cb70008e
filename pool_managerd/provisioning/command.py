"""`mode: command`: any argv, with the facts of the launch put into its placeholders."""

from __future__ import annotations

import re

import anyio.to_thread

from contracts.config import COMMAND_PLACEHOLDER, Command, Pool
from contracts.plans import MissingTool, PlanStep
from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.provisioning.binary import located
from pool_managerd.provisioning.launchers import key_variables
from pool_managerd.provisioning.showing import launch_step
from pool_managerd.provisioning.tools import ProvisioningTools
from worker_adapters.base import LaunchPlan, LaunchSpec


async def provision(
    pool: Pool,
    spec: LaunchSpec,
    tools: ProvisioningTools,  # noqa: ARG001
) -> LaunchPlan:
    """The launch of one replica of somebody's own command; raises `LaunchRefused`."""
    return await anyio.to_thread.run_sync(plan, pool, spec)


def steps(pool: Pool, spec: LaunchSpec) -> list[PlanStep]:
    """The launch alone."""
    argv = filled(_config(pool).command, spec)
    return [launch_step(_launch(pool, located(argv[0]) or argv[0], argv, spec))]


def missing(pool: Pool, spec: LaunchSpec) -> list[MissingTool]:
    """The program, if it is not there."""
    program = filled(_config(pool).command, spec)[0]
    if located(program) is not None:
        return []
    return [MissingTool(tool=program, remedy="install it, or name its path in the command")]


def plan(pool: Pool, spec: LaunchSpec) -> LaunchPlan:
    """The launch of a command whose program is on this machine.

    Raises:
        LaunchRefused: there is no such program.
    """
    argv = filled(_config(pool).command, spec)
    path = located(argv[0])
    if path is None:
        raise LaunchRefused(
            FailureReason.TOOL_MISSING,
            f"pool {pool.id}: there is no program {argv[0]}; install it, or name its path in"
            " provisioning.command, then restart pool_managerd",
        )
    return _launch(pool, path, argv, spec)


def filled(command: tuple[str, ...], spec: LaunchSpec, **more: str) -> list[str]:
    """The argv with its placeholders filled in; `more` are further ones."""
    facts = {
        "host": spec.host,
        "port": str(spec.port),
        "model": str(spec.model_path or ""),
        "ctx": str(spec.ctx),
        "ctx_total": str(spec.ctx * spec.slots),
        "slots": str(spec.slots),
        "api_key": spec.api_key,
        "devices": ",".join(spec.device_uuids),
    } | more
    return [re.sub(COMMAND_PLACEHOLDER, lambda found: facts[found[1]], part) for part in command]


def environment(pool: Pool, spec: LaunchSpec) -> dict[str, str]:
    """What a command is told beside its argv: the mask and the key.

    The key stands under our name, and under the one that the engine's program reads.  So a
    command that ignores `{devices}` still sees no other card, and the key need not stand
    in argv, where every user of the machine can read it.
    """
    names = {"LLAMA_API_KEY", *key_variables(pool, spec)}
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(spec.device_uuids),
        **dict.fromkeys(sorted(names), spec.api_key),
    }


def _launch(pool: Pool, path: str, argv: list[str], spec: LaunchSpec) -> LaunchPlan:
    return LaunchPlan((path, *argv[1:], *spec.engine_args), environment(pool, spec))


def _config(pool: Pool) -> Command:
    assert isinstance(pool.provisioning, Command)
    return pool.provisioning
