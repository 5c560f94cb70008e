"""`mode: container`: the engine's server from an image, by docker or podman.

The client of a container runtime is our process, and the container is not: ending the
client leaves it, so its end is a command of its own (`LaunchPlan.end_argv`).  Its name
is the replica's, so that whatever an earlier start left can be named.  The key travels
by the name of its variable alone; docker and podman take the value from their own
environment.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from contracts.config import Container, Pool
from contracts.plans import MissingTool, PlanStep
from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.provisioning.binary import located
from pool_managerd.provisioning.showing import launch_step
from pool_managerd.provisioning.tools import ProvisioningTools
from worker_adapters.base import LaunchPlan, LaunchSpec
from worker_adapters.registry import ENGINES

RUNTIMES = ("docker", "podman")
PACKAGES = {"docker": "docker.io", "podman": "podman"}
INSIDE_PORT = 8080
MODELS = "/models"


async def provision(pool: Pool, spec: LaunchSpec, tools: ProvisioningTools) -> LaunchPlan:
    """The launch of one container; raises `LaunchRefused` where no runtime is installed."""
    runtime = await anyio.to_thread.run_sync(_runtime, pool)
    if runtime is None:
        lack = _lack(_config(pool))
        raise LaunchRefused(
            FailureReason.TOOL_MISSING,
            f"pool {pool.id}: {lack.tool} is not installed; run `{lack.remedy}`, then restart"
            " pool_managerd",
        )
    return plan(pool, spec, runtime, tools.holder)


def steps(pool: Pool, spec: LaunchSpec) -> list[PlanStep]:
    """The launch, and what ends it."""
    config = _config(pool)
    launch = plan(pool, spec, _runtime(pool) or config.runtime or RUNTIMES[0], f"{pool.id}/N")
    return [launch_step(launch), PlanStep(what="at its end", argv=launch.end_argv)]


def missing(pool: Pool, spec: LaunchSpec) -> list[MissingTool]:
    """The runtime, and what gives it cards."""
    lacks = [] if _runtime(pool) else [_lack(_config(pool))]
    if spec.device_uuids and located("nvidia-ctk") is None:
        lacks.append(MissingTool(tool="nvidia-ctk", remedy="apt install nvidia-container-toolkit"))
    return lacks


def plan(pool: Pool, spec: LaunchSpec, runtime: str, replica_id: str) -> LaunchPlan:
    """argv of `run` around the argv that the engine's own program would have."""
    config, model = _config(pool), spec.model_path
    assert model is not None
    name = f"llama-orch-{replica_id.replace('/', '-')}"
    launchers = ENGINES[pool.engine].launchers
    inside = launchers.get("container", launchers["binary"]).plan(
        replace(
            spec,
            binary="server",
            host="0.0.0.0",  # noqa: S104 - inside; outside it is published on loopback alone
            port=INSIDE_PORT,
            model_path=Path(MODELS) / model.name,
        )
    )
    argv = (
        *(runtime, "run", "--rm", "--init", "--name", name),
        *("--publish", f"{spec.host}:{spec.port}:{INSIDE_PORT}"),
        *("--mount", f"type=bind,src={model.parent},dst={MODELS},readonly"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *_cards(runtime, spec.device_uuids),
        *(part for variable in sorted(inside.env) for part in ("--env", variable)),
        *config.args,
        config.image,
        *inside.argv[1:],
    )
    # The runtime gives the container its cards and no others: they are all it sees.
    env = {key: value for key, value in inside.env.items() if key != "CUDA_VISIBLE_DEVICES"}
    argv = _without(argv, ("--env", "CUDA_VISIBLE_DEVICES"))
    return LaunchPlan(argv, env, end_argv=(runtime, "rm", "--force", name))


def _cards(runtime: str, uuids: tuple[str, ...]) -> tuple[str, ...]:
    """docker's `--gpus` takes a CSV value, hence the quotes; podman takes CDI names."""
    if not uuids:
        return ()
    if Path(runtime).name == "podman":
        return tuple(p for uuid in uuids for p in ("--device", f"nvidia.com/gpu={uuid}"))
    return ("--gpus", f'"device={",".join(uuids)}"')


def _without(argv: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    for index in range(len(argv) - 1):
        if argv[index : index + 2] == pair:
            return (*argv[:index], *argv[index + 2 :])
    return argv


def _runtime(pool: Pool) -> str | None:
    wanted = _config(pool).runtime
    names = RUNTIMES if wanted is None else (wanted,)
    return next(filter(None, map(located, names)), None)


def _lack(config: Container) -> MissingTool:
    tool = config.runtime or "docker"
    return MissingTool(tool=tool, remedy=f"apt install {PACKAGES[tool]}")


def _config(pool: Pool) -> Container:
    assert isinstance(pool.provisioning, Container)
    return pool.provisioning
