"""`mode: container`: the engine's server from an image, by docker or podman.

The client of a container runtime is our process, and the container is not: ending the
client leaves it, so its end is a command of its own (`LaunchPlan.end_argv`).  Its name
is that of the replica in this state directory, so that whatever an earlier start left
can be named, and two daemons on one machine do not end each other's.  The key travels
by the name of its variable alone; docker and podman take the value from their own
environment.

It runs as our user and without capabilities, which can read what we can: a cached model
is ours alone.  It sees the model and nothing beside it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from contracts.config import Container, Pool
from contracts.plans import MissingTool, PlanStep
from contracts.pools import FailureReason
from contracts.service.settings import child_environment, tool_environment
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.refs import split_names
from pool_managerd.provisioning.binary import located
from pool_managerd.provisioning.launchers import holding, launcher_of
from pool_managerd.provisioning.showing import launch_step
from pool_managerd.provisioning.tools import ProvisioningTools
from worker_adapters.base import LaunchPlan, LaunchSpec

RUNTIMES = ("docker", "podman")
PACKAGES = {"docker": "docker.io", "podman": "podman"}
INSIDE_PORT = 8080
MODELS = "/models"
HOME = ("--env", "HOME=/tmp", "--env", "USER=engine")
"""Our user has no home in an image, and mostly no name; engines write caches to theirs."""
INSPECT_S = 30.0
NO_SUCH_IMAGE = ("no such image", "image not known", "no such object")
"""How docker and podman say so."""


async def provision(pool: Pool, spec: LaunchSpec, tools: ProvisioningTools) -> LaunchPlan:
    """The launch of one container.

    Raises:
        LaunchRefused: no runtime is installed, or the image is not here and none may be fetched.
    """
    runtime = await anyio.to_thread.run_sync(_runtime, pool)
    if runtime is None:
        lack = _lack(_config(pool))
        raise LaunchRefused(
            FailureReason.TOOL_MISSING,
            f"pool {pool.id}: {lack.tool} is not installed; run `{lack.remedy}`, then restart"
            " pool_managerd",
        )
    made = plan(pool, spec, runtime, _name(tools.state_dir, tools.holder), tools.downloads_allowed)
    if not tools.downloads_allowed:
        await _refuse_without_image(pool, runtime)
    return replace(made, env={**tool_environment(), **made.env})


def steps(pool: Pool, spec: LaunchSpec) -> list[PlanStep]:
    """The launch, and what ends it."""
    config = _config(pool)
    runtime = _runtime(pool) or config.runtime or RUNTIMES[0]
    launch = plan(pool, spec, runtime, f"llama-orch-{{instance}}-{pool.id}-N", pull=False)
    return [launch_step(launch), PlanStep(what="at its end", argv=launch.end_argv)]


def missing(pool: Pool, spec: LaunchSpec) -> list[MissingTool]:
    """The runtime, and what gives it cards."""
    lacks = [] if _runtime(pool) else [_lack(_config(pool))]
    if spec.device_uuids and located("nvidia-ctk") is None:
        lacks.append(MissingTool(tool="nvidia-ctk", remedy="apt install nvidia-container-toolkit"))
    return lacks


def plan(pool: Pool, spec: LaunchSpec, runtime: str, name: str, pull: bool) -> LaunchPlan:
    """argv of `run` around the argv that the engine's own program would have.

    Args:
        pull: whether the runtime may fetch the image where it is not here.

    Raises:
        ValueError: the engine takes no key, so that nobody could prove who listens, or the
            path of its model cannot be told to a runtime.
    """
    config, model = _config(pool), spec.model_path
    assert model is not None
    inside = launcher_of(pool).plan(
        replace(
            spec,
            binary="server",
            host="0.0.0.0",  # noqa: S104 - inside; outside it is published on loopback alone
            port=INSIDE_PORT,
            model_path=Path(MODELS) / model.name,
        )
    )
    if not holding(spec.api_key, inside):
        raise ValueError(
            f"pool {pool.id}: engine {pool.engine} takes no key, so that nobody can prove who"
            " listens on the port of a container; use another provisioning"
        )
    # The runtime gives the container its cards and no others: they are all it sees.
    env = {key: value for key, value in inside.env.items() if key != "CUDA_VISIBLE_DEVICES"}
    argv = (
        *(runtime, "run", "--rm", "--init", "--name", name),
        *(() if pull else ("--pull", "never")),
        *("--publish", f"{spec.host}:{spec.port}:{INSIDE_PORT}"),
        *(part for path in _parts(model) for part in ("--mount", _mount(path))),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *_user(runtime),
        *HOME,
        *_cards(runtime, spec.device_uuids),
        *(part for variable in sorted(env) for part in ("--env", variable)),
        *config.args,
        config.image,
        *inside.argv[1:],
    )
    return LaunchPlan(argv, env, end_argv=(runtime, "rm", "--force", name))


async def _refuse_without_image(pool: Pool, runtime: str) -> None:
    """Say what to do before the runtime says that it may not fetch."""
    image = _config(pool).image
    argv = (runtime, "image", "inspect", "--format", "{{.Id}}", image)
    with anyio.fail_after(INSPECT_S):
        done = await anyio.run_process(argv, check=False, env=child_environment(tool_environment()))
    if done.returncode == 0:
        return
    said = done.stderr.decode(errors="replace").strip()[-500:]
    program = Path(runtime).name
    if any(words in said.lower() for words in NO_SUCH_IMAGE):
        raise LaunchRefused(
            FailureReason.DOWNLOAD_DENIED,
            f"pool {pool.id}: the image {image} is not on this machine, and downloads are off; run"
            f" `{program} pull {image}`, or set policy.downloads.allow, then restart pool_managerd",
        )
    raise LaunchRefused(
        FailureReason.PROVISIONING_FAILED,
        f"pool {pool.id}: {program} cannot be asked for the image {image}: {said}",
    )


def _name(state_dir: Path, replica_id: str) -> str:
    """Of one replica of one state directory."""
    instance = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:8]
    return f"llama-orch-{instance}-{replica_id.replace('/', '-')}"


def _parts(model: Path) -> tuple[Path, ...]:
    """A model's file or directory; of a split one all files, which lie side by side."""
    return tuple(model.with_name(name) for name in split_names(model.name))


def _mount(path: Path) -> str:
    if set(str(path)) & set(',"'):
        raise ValueError(f'model.ref: {path}: a container runtime takes no `,` and no `"` in paths')
    return f"type=bind,src={path},dst={MODELS}/{path.name},readonly"


def _user(runtime: str) -> tuple[str, ...]:
    """Our user inside too: without capabilities root could not read our files either.

    podman without root has a namespace of its own, in which we are given our own number.
    """
    if Path(runtime).name == "podman" and os.getuid() != 0:
        return ("--userns", "keep-id")
    return ("--user", f"{os.getuid()}:{os.getgid()}")


def _cards(runtime: str, uuids: tuple[str, ...]) -> tuple[str, ...]:
    """docker's `--gpus` takes a CSV value, hence the quotes; podman takes CDI names."""
    if not uuids:
        return ()
    if Path(runtime).name == "podman":
        return tuple(p for uuid in uuids for p in ("--device", f"nvidia.com/gpu={uuid}"))
    return ("--gpus", f'"device={",".join(uuids)}"')


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
