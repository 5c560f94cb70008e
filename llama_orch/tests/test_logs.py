"""`logs` over a real pool_managerd with a stand-in engine."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_orch.failures import ExitCode
from llama_orch.tests.real_daemons import Command
from llama_orch.tests.scripted_server import Run
from pool_managerd.tests.test_daemon import fake_pool, ready
from test_harness.stack import Stack, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """pool_managerd with a pool of one replica, and one of two that are not started."""
    root = tmp_path / "daemons"
    root.mkdir()
    several = fake_pool(root, id="several", replicas=[{"devices": []}, {"devices": []}])
    made = Stack(root, [fake_pool(root), several])
    try:
        made.start("pool_managerd").wait_ready()
        wait_for(lambda: ready(made), "the stand-in serves")
        yield made
    finally:
        made.stop()


def write(stack: Stack, text: str) -> None:
    with (stack.state_dir / "logs" / "fake@0.log").open("a") as log:
        log.write(text)


def test_the_last_lines_are_shown_and_failures_have_their_codes(stack: Stack, run: Run) -> None:
    """LO-CMD-070, LO-CMD-061."""
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
