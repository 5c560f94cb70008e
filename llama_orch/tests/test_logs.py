"""`logs` over a real pool_managerd with a stand-in engine."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_orch.failures import ExitCode
from llama_orch.tests.real_daemons import Command
from llama_orch.tests.scripted_server import Run
from test_harness.stack import Stack, wait_for
from test_harness.supervised import fake_command

pytestmark = pytest.mark.slow


def pool(root: Path, pool_id: str, replicas: int) -> dict[str, Any]:
    model = root / f"{pool_id}.gguf"
    model.write_bytes(b"any file will do")
    return {
        "id": pool_id,
        "engine": "llamacpp",
        "model": {"id": pool_id, "ref": f"file:{model}"},
        "replicas": [{"devices": []}] * replicas,
        "provisioning": {"mode": "command", "command": fake_command()},
    }


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """pool_managerd with a pool of one replica, and one of two."""
    root = tmp_path / "daemons"
    root.mkdir()
    made = Stack(root, [pool(root, "fake", 1), pool(root, "several", 2)])
    try:
        made.start("pool_managerd").wait_ready()
        with made.client("pool_managerd") as client:
            path = "/v1/pools/fake/health"
            wait_for(lambda: client.get(path).json()["ready"], "the stand-in serves")
        yield made
    finally:
        made.stop()


def write(stack: Stack, text: str) -> None:
    with (stack.state_dir / "logs" / "fake@0.log").open("a") as log:
        log.write(text)


def test_the_last_lines_are_shown_and_failures_have_their_codes(stack: Stack, run: Run) -> None:
    """LO-CMD-070, LO-CMD-071."""
    write(stack, "one\ntwo\nthree\n")
    where = ("--config", str(stack.config_path), "--token-file", str(stack.state_dir / "token"))
    shown = run("logs", "fake", "-n", "2", *where)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "two\nthree\n", "")
    shown = run("logs", "fake/0", "-n", "1", "--json", *where)
    assert json.loads(shown.stdout) == {"replica_id": "fake/0", "line": "three"}
    refused = run("logs", "several", *where)
    assert refused.returncode == ExitCode.USAGE
    assert "name one of several/0, several/1" in refused.stderr
    assert run("logs", "fake", "-n", "10001", *where).returncode == ExitCode.USAGE
    assert run("logs", "a/b/c", *where).returncode == ExitCode.USAGE
    assert run("logs", "fake/7", *where).returncode == ExitCode.REFUSED
    assert run("logs", "none", *where).returncode == ExitCode.REFUSED
    stack.stop()
    gone = run("logs", "fake", "--url", "http://127.0.0.1:9", *where)
    assert gone.returncode == ExitCode.UNREACHABLE
    assert "cannot reach pool_managerd" in gone.stderr


def test_following_outlives_a_restart_of_the_manager_and_ctrl_c_ends_it_well(
    stack: Stack, home: Path
) -> None:
    """LO-CMD-072."""
    write(stack, "before\n")
    where = ("--config", str(stack.config_path), "--token-file", str(stack.state_dir / "token"))
    command = Command(home, "logs", "fake", "-f", "-n", "1", *where)
    try:
        wait_for(lambda: command.out == "before\n", "the first line")
        stack.daemons["pool_managerd"].stop(signal.SIGKILL)
        stack.start("pool_managerd").wait_ready()
        wait_for(lambda: "is back" in command.err, "it reads on")
        write(stack, "after\n")
        wait_for(lambda: command.out == "before\nafter\n", "the line after it")
        began = time.monotonic()
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 0
        assert time.monotonic() - began < 5
        assert "Traceback" not in command.err
    finally:
        command.close()
