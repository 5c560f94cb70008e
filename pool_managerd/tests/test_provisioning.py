"""Launch plans: the same facts give the same argv, and what is missing is named."""

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
from worker_adapters.base import LaunchPlan, LaunchSpec

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


def pool(**provisioning: Any) -> Pool:
    return Pool.model_validate(
        {
            "id": "p",
            "engine": "llamacpp",
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
    plan = anyio.run(provisioned, pool(mode="container", image="llama:1", args=["--memory=1g"]))
    argv = plan.argv
    assert argv[:6] == (str(program), "run", "--rm", "--init", "--name", "llama-orch-p-0")
    assert argv[argv.index("--publish") + 1] == "127.0.0.1:4711:8080"
    assert argv[argv.index("--mount") + 1] == "type=bind,src=/models,dst=/models,readonly"
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
    assert "CUDA_VISIBLE_DEVICES" not in [*plan.env, *argv]
    assert plan.end_argv == (str(program), "rm", "--force", "llama-orch-p-0")


def test_a_container_is_started_as_its_image_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-100: vLLM's image has the program in its entry point already."""
    runtime_at(tmp_path, "docker")
    monkeypatch.setenv("PATH", str(tmp_path))
    config = pool(mode="container", image="vllm:1").model_dump() | {"engine": "vllm"}
    argv = anyio.run(provisioned, Pool.model_validate(config, strict=False)).argv
    inside = argv[argv.index("vllm:1") + 1 :]
    assert inside[:2] == ("--model", "/models/q.gguf")


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
