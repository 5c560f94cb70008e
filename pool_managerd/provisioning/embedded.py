"""`mode: embedded`: llama.cpp from its wheel, in a Python child process, on the CPU."""

from __future__ import annotations

from importlib.util import find_spec

import anyio.to_thread

from contracts.config import Pool
from contracts.plans import MissingTool, PlanStep
from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.provisioning.showing import launch_step
from pool_managerd.provisioning.tools import ProvisioningTools
from worker_adapters.base import LaunchPlan, LaunchSpec
from worker_adapters.registry import ENGINES

WHEEL = "xllamacpp"
INSTALL = "pip install 'llama-orch[embedded]'"


async def provision(
    pool: Pool,
    spec: LaunchSpec,
    tools: ProvisioningTools,  # noqa: ARG001
) -> LaunchPlan:
    """The launch of one embedded replica; raises `LaunchRefused` without its wheel."""
    return await anyio.to_thread.run_sync(plan, pool, spec)


def steps(pool: Pool, spec: LaunchSpec) -> list[PlanStep]:
    """The launch alone."""
    return [launch_step(ENGINES[pool.engine].launchers["embedded"].plan(spec))]


def missing(pool: Pool, spec: LaunchSpec) -> list[MissingTool]:  # noqa: ARG001
    """The wheel, if it is not installed."""
    return [] if find_spec(WHEEL) else [MissingTool(tool=WHEEL, remedy=INSTALL)]


def plan(pool: Pool, spec: LaunchSpec) -> LaunchPlan:
    """The launch of one embedded replica.

    Raises:
        LaunchRefused: the wheel is not installed.
    """
    if find_spec(WHEEL) is None:
        raise LaunchRefused(
            FailureReason.TOOL_MISSING,
            f"pool {pool.id}: the embedded engine is not installed;"
            f" run `{INSTALL}`, then restart pool_managerd",
        )
    return ENGINES[pool.engine].launchers["embedded"].plan(spec)
