"""Which planner serves which `provisioning.mode`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from contracts.config import Pool
from pool_managerd.provisioning import binary, command, embedded
from worker_adapters.base import LaunchPlan, LaunchSpec

Planner = Callable[[Pool, LaunchSpec], LaunchPlan]
"""Turns a pool and the facts of one launch into argv and environment, always the same."""

PLANNERS: Mapping[str, Planner] = MappingProxyType(
    {"binary": binary.plan, "command": command.plan, "embedded": embedded.plan}
)
