"""`mode: embedded`: llama.cpp from its wheel, in a Python child process, on the CPU."""

from __future__ import annotations

from importlib.util import find_spec

from contracts.config import Pool
from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from worker_adapters.base import LaunchPlan, LaunchSpec
from worker_adapters.registry import ENGINES

WHEEL = "xllamacpp"


def plan(pool: Pool, spec: LaunchSpec) -> LaunchPlan:
    """The launch of one embedded replica.

    Raises:
        LaunchRefused: the wheel is not installed.
    """
    if find_spec(WHEEL) is None:
        raise LaunchRefused(
            FailureReason.TOOL_MISSING,
            f"pool {pool.id}: the embedded engine is not installed;"
            " run `pip install 'llama-orch[embedded]'`, then restart pool_managerd",
        )
    return ENGINES[pool.engine].launchers["embedded"].plan(spec)
