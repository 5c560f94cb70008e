"""Launch plans: the same facts give the same argv, and what is missing is named."""

import os
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from contracts.config import Command, Pool
from contracts.pools import FailureReason, Preparation
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.resolve import ModelResolver
from pool_managerd.provisioning import command, embedded, source
from pool_managerd.provisioning.registry import MODES
from pool_managerd.provisioning.showing import SHOWN_KEY, SHOWN_PORT
from pool_managerd.provisioning.tools import ProvisioningTools
from test_harness.downloads import downloading, sha256
from test_harness.model_server import ModelServer
from worker_adapters.base import EngineLauncher, LaunchPlan, LaunchSpec
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.llamacpp_launch import LlamaServerLauncher
from worker_adapters.registry import ENGINES, Engine

SPEC = LaunchSpec(
    model_path=Path("/models/q.gguf"),
    model_alias="q",
    host="127.0.0.1",
    port=4711,
    ctx=100,
    slots=3,
    device_uuids=("GPU-a", "GPU-b"),
    engine_args=("--extra",),
    api_key="sekret",
)


def pool(engine: str = "llamacpp", **provisioning: Any) -> Pool:
    return Pool.model_validate(
        {
            "id": "p",
            "engine": engine,
            "model": {"id": "q", "ref": "file:/models/q.gguf"},
            "provisioning": provisioning,
        },
        strict=False,
    )


def tools_at(
    state_dir: Path, told: list[Preparation | None] | None = None, *, allowed: bool = False
) -> ProvisioningTools:
    return ProvisioningTools(
        state_dir=state_dir,
        downloads_allowed=allowed,
        models=ModelResolver.files_only(),
        preparing=(told if told is not None else []).append,
        unix_ms=lambda: 1,
        holder="p/0",
    )


async def provisioned(pool: Pool, spec: LaunchSpec = SPEC) -> LaunchPlan:
    return await MODES[pool.provisioning.mode].provision(pool, spec, tools_at(Path("/nonexistent")))


def test_every_placeholder_of_a_command_is_filled_and_no_shell_is_asked() -> None:
    """LO-POOL-032, LO-POOL-035."""
    parts = ["{host}:{port}", "{model}", "{ctx}", "{ctx_total}", "{slots}", "{api_key}"]
    argv = [sys.executable, *parts, "{devices}", '{"json": 1}; $(rm)']
    plan = command.plan(pool(mode="command", command=argv), SPEC)
    assert plan.argv == (
        *(sys.executable, "127.0.0.1:4711", "/models/q.gguf", "100", "300", "3", "sekret"),
        *("GPU-a,GPU-b", '{"json": 1}; $(rm)', "--extra"),
    )
    assert plan.env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert plan == command.plan(pool(mode="command", command=argv), SPEC)


def test_an_unknown_placeholder_is_refused_with_the_configuration() -> None:
    argv = ["x", "{port}", "{prot}"]
    with pytest.raises(ValidationError, match=r"unknown placeholder \{prot\}; known: .*\{port\}"):
        Command.model_validate({"mode": "command", "command": argv}, strict=False)


def test_a_binary_is_found_on_the_path_and_given_the_configuration(tmp_path: Path) -> None:
    """LO-POOL-031, LO-POOL-034."""
    program = tmp_path / "my-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    plan = anyio.run(provisioned, pool(mode="binary", path=str(program)))
    assert plan.argv[0] == str(program)
    assert plan.argv[plan.argv.index("--ctx-size") + 1] == "300"
    assert plan.argv[-1] == "--extra"
    assert "sekret" not in plan.argv


def test_a_missing_program_is_named_with_what_to_install() -> None:
    with pytest.raises(LaunchRefused) as caught:
        anyio.run(provisioned, pool(mode="binary", path="no-such-server"))
    failure = caught.value.failure
    assert failure.reason is FailureReason.TOOL_MISSING
    assert "no-such-server; install llama.cpp's llama-server" in failure.message
    with pytest.raises(LaunchRefused, match="no program no-such-tool"):
        command.plan(pool(mode="command", command=["no-such-tool", "{port}"]), SPEC)


def test_a_missing_wheel_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WHEEL", "no_such_wheel")
    with pytest.raises(LaunchRefused, match=r"pip install 'llama-orch\[embedded\]'"):
        embedded.plan(pool(mode="embedded"), SPEC)


CARDS = '"device=GPU-a,GPU-b"'


def runtime_at(directory: Path, name: str) -> Path:
    """A program of this name, alone on PATH."""
    program = directory / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    return program


@pytest.mark.parametrize(
    ("runtime", "cards"),
    [
        ("docker", ("--gpus", CARDS)),
        ("podman", ("--device", "nvidia.com/gpu=GPU-a", "--device", "nvidia.com/gpu=GPU-b")),
    ],
)
def test_a_container_is_given_its_cards_its_model_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, cards: tuple[str, ...]
) -> None:
    """LO-POOL-100, LO-POOL-035: the key is no argument, and the port is loopback's alone."""
    program = runtime_at(tmp_path, runtime)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1/docker.sock")
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 99)
    plan = anyio.run(provisioned, pool(mode="container", image="llama:1", args=["--memory=1g"]))
    argv, name = plan.argv, plan.argv[plan.argv.index("--name") + 1]
    assert argv[:5] == (str(program), "run", "--rm", "--init", "--name")
    assert re.fullmatch(r"llama-orch-[0-9a-f]{8}-p-0", name)
    assert argv[argv.index("--publish") + 1] == "127.0.0.1:4711:8080"
    mounts = [value for option, value in pairwise(argv) if option == "--mount"]
    assert mounts == ["type=bind,src=/models/q.gguf,dst=/models/q.gguf,readonly"]
    user = ("--userns", "keep-id") if runtime == "podman" else ("--user", "1234:99")
    assert user in pairwise(argv)
    assert ("--pull", "never") in pairwise(argv)
    start = argv.index(cards[0])
    assert argv[start : start + len(cards)] == cards
    image = argv.index("llama:1")
    assert argv[image - 1] == "--memory=1g"
    inside = argv[image + 1 :]
    assert inside[inside.index("--port") + 1] == "8080"
    assert inside[inside.index("-m") + 1] == "/models/q.gguf"
    assert inside[-1] == "--extra"
    assert not any("sekret" in part for part in argv)
    assert ("--env", "LLAMA_API_KEY") in pairwise(argv)
    assert plan.env["LLAMA_API_KEY"] == "sekret"
    assert plan.env["DOCKER_HOST"] == "unix:///run/user/1/docker.sock"
    assert "CUDA_VISIBLE_DEVICES" not in [*plan.env, *argv]
    assert plan.end_argv == (str(program), "rm", "--force", name)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return runtime_at(tmp_path, "docker")


@pytest.mark.parametrize(
    ("said", "reason", "words"),
    [
        ("Error: No such image: llama:1", FailureReason.DOWNLOAD_DENIED, "`docker pull llama:1`"),
        ("Cannot connect to the Docker daemon", FailureReason.PROVISIONING_FAILED, "Cannot conn"),
    ],
)
def test_an_image_that_is_not_here_is_not_fetched_where_downloads_are_off(
    docker: Path, said: str, reason: FailureReason, words: str
) -> None:
    """LO-POOL-102, LO-POOL-182."""
    docker.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    a_pool = pool(mode="container", image="llama:1")
    with pytest.raises(LaunchRefused, match=words) as caught:
        anyio.run(provisioned, a_pool)
    assert caught.value.failure.reason is reason
    allowed = tools_at(Path("/nonexistent"), allowed=True)
    plan = anyio.run(MODES["container"].provision, a_pool, SPEC, allowed)
    assert "--pull" not in plan.argv


@pytest.mark.usefixtures("docker")
def test_two_daemons_name_their_containers_apart() -> None:
    """LO-POOL-182."""
    a_pool, names = pool(mode="container", image="i"), set()
    for state_dir in (Path("/a"), Path("/b"), Path("/a")):
        plan = anyio.run(MODES["container"].provision, a_pool, SPEC, tools_at(state_dir))
        names.add(plan.end_argv[-1])
    assert len(names) == 2


@pytest.mark.usefixtures("docker")
def test_a_container_sees_every_part_of_a_split_model() -> None:
    """LO-POOL-182."""
    spec = replace(SPEC, model_path=Path("/m/x-00001-of-00002.gguf"))
    plan = anyio.run(provisioned, pool(mode="container", image="i"), spec)
    mounts = [value for option, value in pairwise(plan.argv) if option == "--mount"]
    assert [mount.split(",")[1] for mount in mounts] == [
        "src=/m/x-00001-of-00002.gguf",
        "src=/m/x-00002-of-00002.gguf",
    ]
    spec = replace(SPEC, model_path=Path("/m/a,readonly=false.gguf"))
    with pytest.raises(ValueError, match="takes no"):
        anyio.run(provisioned, pool(mode="container", image="i"), spec)


class Keyless(LlamaServerLauncher):
    """An engine that takes no key."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        return replace(super().plan(spec), env={})


class Other(LlamaServerLauncher):
    """One that reads its key elsewhere, and whose image is started otherwise."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        argv = (spec.binary or "", "--model", str(spec.model_path), *spec.engine_args)
        return LaunchPlan(argv, {"OTHER_KEY": spec.api_key})


def served_by(monkeypatch: pytest.MonkeyPatch, name: str, **launchers: EngineLauncher) -> None:
    """Have an engine of this name, whose client is of no matter here."""
    engines = {**ENGINES, name: Engine(name, launchers, LlamaCppClient)}
    monkeypatch.setattr("pool_managerd.provisioning.launchers.ENGINES", engines)


@pytest.mark.usefixtures("docker")
def test_an_engine_without_a_key_is_put_in_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """LO-POOL-181: nobody could prove who listens."""
    served_by(monkeypatch, "vllm", binary=Keyless())
    with pytest.raises(ValueError, match="takes no key"):
        anyio.run(provisioned, pool(engine="vllm", mode="container", image="i"))


@pytest.mark.usefixtures("docker")
def test_an_engine_has_its_own_argv_in_a_container_and_its_own_name_of_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LO-POOL-181."""
    served_by(monkeypatch, "vllm", binary=Keyless(), container=Other())
    plan = anyio.run(provisioned, pool(engine="vllm", mode="container", image="i"))
    assert plan.argv[-3:] == ("--model", "/models/q.gguf", "--extra")
    assert ("--env", "OTHER_KEY") in pairwise(plan.argv)
    served_by(monkeypatch, "vllm", binary=Other())
    argv = [sys.executable, "{port}"]
    plan = command.plan(pool(engine="vllm", mode="command", command=argv), SPEC)
    assert plan.env["OTHER_KEY"] == plan.env["LLAMA_API_KEY"] == "sekret"
    packaged = pool(engine="vllm", mode="package", requirements=["vllm==1"])
    launch = MODES["package"].steps(packaged, SPEC)[-1]
    assert launch.argv[0].endswith(".environment/bin/vllm")
    assert launch.argv[-1] == "--extra"


@pytest.mark.parametrize(
    ("engine", "provisioning", "words"),
    [
        ("openai", {"mode": "binary", "path": "x"}, "use provisioning `external` or `command`"),
        ("openai", {"mode": "container", "image": "x"}, "use provisioning `external`"),
        ("triton", {"mode": "container", "image": "x"}, "it takes no key"),
        ("vllm", {"mode": "source"}, "serves `llamacpp` only"),
        ("vllm", {"mode": "embedded"}, "serves engine `llamacpp` only"),
        ("tgi", {"mode": "package", "requirements": ["x"]}, "needs a `command`"),
    ],
)
def test_an_engine_that_does_not_come_so_is_refused_with_the_configuration(
    engine: str, provisioning: dict[str, Any], words: str
) -> None:
    """LO-POOL-181."""
    with pytest.raises(ValidationError, match=words):
        pool(engine=engine, **provisioning)


def test_a_container_is_started_as_its_image_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-100: Triton's image runs what follows its entry point, the program first."""
    runtime_at(tmp_path, "docker")
    monkeypatch.setenv("PATH", str(tmp_path))
    config = pool(mode="container", image="tritonserver:1").model_dump() | {"engine": "triton"}
    argv = anyio.run(provisioned, Pool.model_validate(config, strict=False)).argv
    inside = argv[argv.index("tritonserver:1") + 1 :]
    assert inside[:2] == ("tritonserver", "--model-repository=/models/q.gguf")
    assert "--http-port=8080" in inside


def test_a_machine_without_a_runtime_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-101."""
    monkeypatch.setenv("PATH", str(tmp_path))
    a_pool = pool(mode="container", image="llama:1")
    with pytest.raises(LaunchRefused, match=r"run `apt install docker\.io`"):
        anyio.run(provisioned, a_pool)
    lacks = MODES["container"].missing(a_pool, SPEC)
    assert [(lack.tool, lack.remedy) for lack in lacks] == [
        ("docker", "apt install docker.io"),
        ("nvidia-ctk", "apt install nvidia-container-toolkit"),
    ]
    lacks = MODES["source"].missing(pool(mode="source"), SPEC)
    assert {lack.tool for lack in lacks} == {"cmake", "ninja", "c++", "nvcc"}


def test_packages_are_not_fetched_where_downloads_are_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-102."""
    monkeypatch.setattr(source, "missing", lambda *_: [])
    a_pool = pool(mode="package", requirements=["xllamacpp"])
    for mode in (a_pool, pool(mode="source")):
        provision = MODES[mode.provisioning.mode].provision
        with pytest.raises(LaunchRefused, match=r"policy\.downloads\.allow") as caught:
            anyio.run(provision, mode, SPEC, tools_at(tmp_path))
        assert caught.value.failure.reason is FailureReason.DOWNLOAD_DENIED
    assert not list(tmp_path.glob("engines/*making*"))


@pytest.mark.parametrize(
    "provisioning",
    [
        {"mode": "binary", "path": "llama-server"},
        {"mode": "binary", "url": "https://h/x", "digest": "sha256:" + "0" * 64},
        {"mode": "command", "command": ["x", "{port}", "{api_key}"]},
        {"mode": "container", "image": "llama:1"},
        {"mode": "source", "cmake_args": ["-DX=1"], "jobs": 3},
        {"mode": "package", "requirements": ["xllamacpp==1"]},
        {"mode": "package", "requirements": ["a==1"], "command": ["{python}", "-m", "a", "{port}"]},
    ],
    ids=lambda provisioning: "-".join(sorted(provisioning)),
)
def test_a_plan_is_the_same_each_time_and_shows_no_key(provisioning: dict[str, Any]) -> None:
    """LO-POOL-103."""
    a_pool = pool(**provisioning)
    spec = replace(SPEC, port=SHOWN_PORT, api_key=SHOWN_KEY)
    if a_pool.provisioning.mode == "package" and not provisioning.get("command"):
        spec = replace(spec, device_uuids=(), engine_args=())
    steps = MODES[a_pool.provisioning.mode].steps(a_pool, spec)
    assert steps == MODES[a_pool.provisioning.mode].steps(a_pool, spec)
    launch = steps[-1] if steps[-1].env else steps[-2]
    assert any("{port}" in part for part in launch.argv)
    assert not any(str(SHOWN_PORT) in part for step in steps for part in step.argv)


@pytest.mark.anyio
async def test_a_program_is_fetched_verified_and_can_be_run(tmp_path: Path) -> None:
    """LO-POOL-102."""
    content = b"#!/bin/sh\necho it runs\n"
    server = ModelServer(files={"/llama-server": content})
    async with server.serving(), downloading(tmp_path) as it:
        url = f"{server.url}/llama-server"
        tools = replace(tools_at(tmp_path), models=it.resolver)
        a_pool = pool(mode="binary", url=url, digest=sha256(content))
        plan = await MODES["binary"].provision(a_pool, SPEC, tools)
        program = anyio.Path(plan.argv[0])
        assert (await program.stat()).st_mode & 0o777 == 0o700
        assert (await anyio.run_process([str(program)])).stdout == b"it runs\n"
        other = pool(mode="binary", url=url, digest=sha256(b"other"))
        with pytest.raises(LaunchRefused) as caught:
            await MODES["binary"].provision(other, SPEC, tools)
        assert caught.value.failure.reason is FailureReason.MODEL_INVALID
