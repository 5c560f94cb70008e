"""`pools plan`, as a process, without a daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def plan(
    tmp_path: Path, *arguments: str, devices: Sequence[int] = (), **provisioning: Any
) -> subprocess.CompletedProcess[str]:
    model = tmp_path / "m.gguf"
    if not model.exists():
        model.touch()
    pool = {
        "id": "chat",
        "engine": "llamacpp",
        "model": {"id": "m", "ref": f"file:{model}"},
        "replicas": [{"devices": list(devices)}],
        "provisioning": provisioning,
    }
    config = tmp_path / "config.yaml"
    config.write_text(
        json.dumps(
            {"state_dir": str(tmp_path / "state"), "pools": [pool], "gpus": {"source": "nvml"}}
        )
    )
    argv = [sys.executable, "-m", "llama_orch", "pools", "plan", "--config", str(config)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("LLORCH_")}
    return subprocess.run([*argv, *arguments], capture_output=True, text=True, env=env, check=False)


def test_a_plan_is_shown_without_a_daemon_and_the_same_each_time(tmp_path: Path) -> None:
    """LO-POOL-109, LO-POOL-103: nothing is made, not even the state directory."""
    provisioning: dict[str, Any] = {
        "mode": "command",
        "command": [sys.executable, "{port}", "{api_key}"],
    }
    done = plan(tmp_path, "--json", **provisioning)
    assert done.returncode == 0, done.stderr
    [shown] = json.loads(done.stdout)["items"]
    assert (shown["pool_id"], shown["mode"], shown["missing"]) == ("chat", "command", [])
    assert shown["steps"][-1]["argv"] == [sys.executable, "{port}", "{api_key}"]
    assert plan(tmp_path, "--json", **provisioning).stdout == done.stdout
    assert not (tmp_path / "state").exists()


def test_what_is_missing_is_named_with_its_remedy_and_the_exit_code(tmp_path: Path) -> None:
    """LO-POOL-109, LO-POOL-101."""
    done = plan(tmp_path, "chat", mode="binary", path="no-such-server")
    assert done.returncode == 1
    assert "missing: no-such-server; remedy: install llama.cpp's llama-server" in done.stdout


def test_a_model_that_is_not_there_is_missing(tmp_path: Path) -> None:
    """LO-POOL-109."""
    (tmp_path / "m.gguf").mkdir()
    done = plan(tmp_path, "chat", mode="command", command=[sys.executable, "{port}"])
    assert done.returncode == 0, "a command may take a directory"
    done = plan(tmp_path, "chat", mode="embedded")
    assert done.returncode == 1
    assert "m.gguf; remedy: not a file; put the model there, or change the ref" in done.stdout


def test_an_unknown_pool_and_a_wrong_configuration_are_one_line(tmp_path: Path) -> None:
    done = plan(tmp_path, "other", mode="embedded")
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "error: no plan: no pool other is configured",
    )
    done = plan(tmp_path, mode="package", requirements=["xllamacpp"], devices=[0])
    assert done.returncode == 1
    assert "without a `command` runs on the CPU" in done.stderr
    assert "Traceback" not in done.stderr
    done = plan(tmp_path, mode="binary", path="a", url="https://b")
    assert done.returncode == 1
    assert "set either `path`, or `url`" in done.stderr
    assert "Traceback" not in done.stderr
