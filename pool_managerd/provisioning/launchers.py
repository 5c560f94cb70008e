"""Which launcher speaks for a pool's engines, and whether their argv is its own."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.config import Command, External, Package, Pool
from contracts.engines import ReplicaCapabilities
from contracts.pools import FailureReason
from worker_adapters.base import EngineCapabilities, EngineLauncher, LaunchPlan, LaunchSpec
from worker_adapters.registry import ENGINES

MADE_BY = {"source": "binary", "package": "embedded"}
"""Modes that start what another mode starts, once it is made."""


class AnyProgram(EngineLauncher):
    """For a program of which nothing is known but its dialect."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:  # noqa: ARG002
        """Nobody but its command knows how it is started."""
        raise ValueError("this engine is started by `mode: command`, or by somebody else")

    def exit_reason(
        self,
        exit_code: int | None,
        log_tail: Sequence[str],  # noqa: ARG002
    ) -> FailureReason:
        """By signal or not."""
        if exit_code is not None and exit_code < 0:
            return FailureReason.CRASH
        return FailureReason.EXITED


def launcher_of(pool: Pool) -> EngineLauncher:
    """What reads how the pool's engines end; a command mostly wraps the engine's program."""
    launchers = ENGINES[pool.engine].launchers
    mode: str = pool.provisioning.mode
    if makes_argv(pool):
        mode = MADE_BY.get(mode, mode)
    return launchers.get(mode) or launchers.get("binary") or AnyProgram()


def makes_argv(pool: Pool) -> bool:
    """Whether a launcher makes the argv, and not somebody's command."""
    provisioning = pool.provisioning
    if isinstance(provisioning, Package):
        return not provisioning.command
    return not isinstance(provisioning, Command | External)


def shown(told: EngineCapabilities, pool: Pool) -> ReplicaCapabilities:
    """What an engine of the pool can be asked for.

    A launcher that made the argv may know that it decodes one sequence at a time, where
    the engine does not tell.
    """
    launcher = launcher_of(pool)
    vouched = makes_argv(pool) and launcher.vouches_for_strict(pool.slots, pool.engine_args)
    return ReplicaCapabilities(
        workloads=tuple(sorted(told.workloads)),
        features=tuple(sorted(told.features)),
        strict_refusal=None if vouched else told.strict_refusal,
        trtllm_version=told.trtllm_version,
    )


def engine_version(pool: Pool) -> str | None:
    """The version of what runs here, where only its launcher knows it; None: ask the engine."""
    if pool.provisioning.mode == "package":
        # What is installed beside us is not what is installed there.
        return None
    return launcher_of(pool).engine_version() if makes_argv(pool) else None
