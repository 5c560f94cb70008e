"""Launch plans: the same facts give the same argv, and what is missing is named."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.config import Command, Pool
from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.provisioning import binary, command, embedded
from worker_adapters.base import LaunchSpec

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
    plan = binary.plan(pool(mode="binary", path=str(program)), SPEC)
    assert plan.argv[0] == str(program)
    assert plan.argv[plan.argv.index("--ctx-size") + 1] == "300"
    assert plan.argv[-1] == "--extra"
    assert "sekret" not in plan.argv


def test_a_missing_program_is_named_with_what_to_install() -> None:
    with pytest.raises(LaunchRefused) as caught:
        binary.plan(pool(mode="binary", path="no-such-server"), SPEC)
    failure = caught.value.failure
    assert failure.reason is FailureReason.TOOL_MISSING
    assert "no-such-server; install llama.cpp's llama-server" in failure.message
    with pytest.raises(LaunchRefused, match="no program no-such-tool"):
        command.plan(pool(mode="command", command=["no-such-tool", "{port}"]), SPEC)


def test_a_missing_wheel_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WHEEL", "no_such_wheel")
    with pytest.raises(LaunchRefused, match=r"pip install 'llama-orch\[embedded\]'"):
        embedded.plan(pool(mode="embedded"), SPEC)
