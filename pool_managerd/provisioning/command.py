"""`mode: command`: any argv, with the facts of the launch put into its placeholders."""

from __future__ import annotations

import re

from contracts.config import COMMAND_PLACEHOLDER, Command, Pool
from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.provisioning.binary import located
from worker_adapters.base import LaunchPlan, LaunchSpec


def plan(pool: Pool, spec: LaunchSpec) -> LaunchPlan:
    """The launch of one replica of somebody's own command.

    The mask is set in the environment too, so that a command that ignores
    `{devices}` still sees no other card, and the key as `LLAMA_API_KEY`, so that
    it need not stand in argv where every user of the machine can read it.

    Raises:
        LaunchRefused: there is no such program.
    """
    assert isinstance(pool.provisioning, Command)
    devices = ",".join(spec.device_uuids)
    facts = {
        "host": spec.host,
        "port": str(spec.port),
        "model": str(spec.model_path or ""),
        "ctx": str(spec.ctx),
        "ctx_total": str(spec.ctx * spec.slots),
        "slots": str(spec.slots),
        "api_key": spec.api_key,
        "devices": devices,
    }

    def filled(part: str) -> str:
        return re.sub(COMMAND_PLACEHOLDER, lambda found: facts[found[1]], part)

    argv = [filled(part) for part in pool.provisioning.command]
    path = located(argv[0])
    if path is None:
        raise LaunchRefused(
            FailureReason.TOOL_MISSING,
            f"pool {pool.id}: there is no program {argv[0]}; install it, or name its path in"
            " provisioning.command, then restart pool_managerd",
        )
    environment = {"CUDA_VISIBLE_DEVICES": devices, "LLAMA_API_KEY": spec.api_key}
    return LaunchPlan((path, *argv[1:], *spec.engine_args), environment)
