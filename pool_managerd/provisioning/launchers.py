"""Which launcher speaks for a pool's engines, and whether their argv is its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from hmac import compare_digest

from contracts.config import Command, External, Package, Pool
from contracts.engines import ReplicaCapabilities
from worker_adapters.base import EngineCapabilities, EngineLauncher, LaunchPlan, LaunchSpec
from worker_adapters.registry import ENGINES

SETTINGS = {"ctx", "slots", "engine_args", "provisioning"}
"""Fields of a pool that may change the bytes of a text: the type of a KV cache, for one."""
PROGRAMS = {"vllm": "vllm"}
"""The program that an engine's Python packages install."""


def launcher_of(pool: Pool) -> EngineLauncher:
    """What makes the argv, and reads how the pool's engines end.

    A command mostly wraps the engine's own program.
    """
    launchers = ENGINES[pool.engine].launchers
    if isinstance(pool.provisioning, Package) and makes_argv(pool):
        return launchers["binary" if pool.engine in PROGRAMS else "embedded"]
    return launchers.get(pool.provisioning.mode, launchers["binary"])


def makes_argv(pool: Pool) -> bool:
    """Whether a launcher makes the argv, and not somebody's command."""
    provisioning = pool.provisioning
    if isinstance(provisioning, Package):
        return not provisioning.command
    return not isinstance(provisioning, Command | External)


def shown(told: EngineCapabilities, pool: Pool) -> ReplicaCapabilities:
    """What an engine of the pool can be asked for, within what a snapshot can show."""
    return ReplicaCapabilities(
        workloads=tuple(sorted(told.workloads)),
        features=tuple(sorted(told.features)),
        strict_refusal=_cut(told.strict_refusal, 512),
        trtllm_version=_cut(told.trtllm_version, 256),
        settings_digest=_settings_digest(pool),
    )


def _settings_digest(pool: Pool) -> str:
    """Of what a launch is told besides its model and its cards."""
    told = pool.model_dump(mode="json", include=SETTINGS)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _cut(text: str | None, characters: int) -> str | None:
    return None if text is None else text[:characters]


def engine_version(pool: Pool) -> str | None:
    """The version of what runs here, where only its launcher knows it; None: ask the engine."""
    if pool.provisioning.mode == "package":
        # What is installed beside us is not what is installed there.
        return None
    return launcher_of(pool).engine_version() if makes_argv(pool) else None


def key_variables(pool: Pool, spec: LaunchSpec) -> tuple[str, ...]:
    """The variables that the engine's own program reads its key from; (): it takes none."""
    try:
        plan = launcher_of(pool).plan(replace(spec, engine_args=()))
    except ValueError:
        # Only a command starts this one, and the command must know.
        return ()
    return holding(spec.api_key, plan)


def holding(secret: str, plan: LaunchPlan) -> tuple[str, ...]:
    """The variables of a launch whose value is the key of the launch."""
    key = secret.encode()
    held = (name for name, value in plan.env.items() if compare_digest(value.encode(), key))
    return tuple(sorted(held))
