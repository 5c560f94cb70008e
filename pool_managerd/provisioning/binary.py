"""`mode: binary`: an engine's own server program, from PATH or by its path."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from contracts.config import Binary, Pool
from contracts.pools import FailureReason
from contracts.service.settings import child_environment
from pool_managerd.failure import LaunchRefused
from worker_adapters.base import LaunchPlan, LaunchSpec
from worker_adapters.registry import ENGINES

INSTALL = {"llamacpp": "install llama.cpp's llama-server"}


def plan(pool: Pool, spec: LaunchSpec) -> LaunchPlan:
    """The launch of one replica of a program on this machine.

    Raises:
        LaunchRefused: there is no such program.
    """
    assert isinstance(pool.provisioning, Binary)
    path = located(pool.provisioning.path)
    if path is None:
        raise LaunchRefused(
            FailureReason.TOOL_MISSING,
            f"pool {pool.id}: there is no program {pool.provisioning.path};"
            f" {INSTALL.get(pool.engine, f'install {pool.engine}')} and put it on PATH, or set"
            " provisioning.path, then restart pool_managerd",
        )
    return ENGINES[pool.engine].launchers["binary"].plan(replace(spec, binary=path))


def located(program: str) -> str | None:
    """The path of a program as the engine's own environment finds it; None: not there."""
    environment = child_environment()
    if program.startswith("~/"):
        program = str(Path(environment.get("HOME", "/")) / program[2:])
    return shutil.which(program, path=environment.get("PATH"))
