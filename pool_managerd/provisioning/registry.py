"""Which module serves which `provisioning.mode`.

Each offers three things.  `provision` does what has to be done and returns the launch;
`steps` tells the same beforehand, and `missing` what this machine lacks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from contracts.config import Pool
from contracts.plans import MissingTool, PlanStep
from pool_managerd.provisioning import binary, command, container, embedded, package, source
from pool_managerd.provisioning.tools import ProvisioningTools
from worker_adapters.base import LaunchPlan, LaunchSpec


class Mode(Protocol):
    """One way for an engine to come to run."""

    async def provision(self, pool: Pool, spec: LaunchSpec, tools: ProvisioningTools) -> LaunchPlan:
        """Whatever is needed is done, and argv and environment of one launch returned.

        Raises:
            LaunchRefused: something is missing, forbidden, or did not work out.
        """
        ...

    def steps(self, pool: Pool, spec: LaunchSpec) -> list[PlanStep]:
        """What `provision` and the launch will do; pure but for the look at PATH."""
        ...

    def missing(self, pool: Pool, spec: LaunchSpec) -> list[MissingTool]:
        """What this machine lacks for it."""
        ...


MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "binary": binary,
        "command": command,
        "container": container,
        "embedded": embedded,
        "package": package,
        "source": source,
    }
)
