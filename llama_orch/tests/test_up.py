"""`up` with real daemons: a file is served, Ctrl-C drains, a death is told."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_orch.failures import ExitCode
from llama_orch.tests.real_daemons import Command
from llama_orch.tests.scripted_server import Run

pytest.importorskip("xllamacpp", reason="xllamacpp: install the extra `embedded`")
pytestmark = pytest.mark.slow

ANY_PORTS = {"LLORCH_ORCHESTRATORD__PORT": "0", "LLORCH_POOL_MANAGERD__PORT": "0"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "My Tiny Model.gguf"
    subprocess.run([sys.executable, "-m", "worker_adapters.tiny_gguf", str(path)], check=True)
    return path


@pytest.fixture
def up(home: Path, model: Path) -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def start(*arguments: str) -> Command:
        given = arguments or ("--model", str(model), "--devices", "cpu")
        commands.append(Command(home, "up", *given, **ANY_PORTS))
        return commands[-1]

    yield start
    for command in commands:
        command.close()


def serving(command: Command) -> Command:
    until(lambda: "Ctrl-C stops it" in command.out, command)
    return command


def until(condition: Callable[[], bool], command: Command, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert command.running(), command.err
        assert time.monotonic() < deadline, command.out + command.err
        time.sleep(0.02)


def test_a_file_is_served_and_every_command_finds_it(up: Callable[..., Command], run: Run) -> None:
    """LO-CMD-013, LO-CMD-021."""
    command = serving(up())
    assert "serving  My-Tiny-Model" in command.out
    submitted = run("submit", "hello", "--max-tokens", "5", "--seed", "1")
    assert submitted.returncode == ExitCode.OK, submitted.stderr
    chat = run("submit", "hello", "--chat", "--max-tokens", "5", "--json")
    assert json.loads(chat.stdout.split("\n")[-2])["event"] == "end"
    task = run("submit", "hello", "--max-tokens", "5", "--detach").stdout.strip()
    streamed = run("stream", task, "--json")
    assert streamed.returncode == ExitCode.OK
    first = json.loads(streamed.stdout.split("\n")[0])
    assert (first["id"], first["event"]) == (1, "started")
    rest = run("stream", task, "--json", "--from", "1").stdout
    assert streamed.stdout.split("\n")[1:] == rest.split("\n")
    assert json.loads(run("status", task, "--json").stdout)["state"] == "succeeded"
    assert "succeeded" in run("status", task).stdout
    assert run("cancel", task).returncode == ExitCode.OK
    assert json.loads(run("status", "--json").stdout)["pool_managerd"] == "connected"
    assert "My-Tiny-Model" in run("status").stdout
    assert "default/0" in run("ps").stdout
    assert json.loads(run("queue", "--json").stdout) == {"items": []}
    refused = run("submit", "hello", "--model", "another")
    assert refused.returncode == ExitCode.REFUSED
    assert "MODEL_UNKNOWN" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_leaves_nothing(
    up: Callable[..., Command], number: signal.Signals
) -> None:
    """LO-CMD-020."""
    command = serving(up())
    assert len(command.children()) >= 3
    command.process.send_signal(number)
    assert command.wait() == ExitCode.OK, command.err
    assert command.children() == []


def test_a_second_ctrl_c_does_not_wait_for_a_running_task(
    up: Callable[..., Command], run: Run
) -> None:
    command = serving(up())
    task = run("submit", "hello", "--max-tokens", "3000", "--detach").stdout.strip()
    command.process.send_signal(signal.SIGINT)
    command.process.send_signal(signal.SIGINT)
    assert command.wait() == ExitCode.OK, command.err
    assert task, "a task was running"
    assert command.children() == []


def test_a_second_instance_is_told_of_the_first(up: Callable[..., Command], run: Run) -> None:
    """LO-CMD-022."""
    first = serving(up())
    second = up()
    assert second.wait() == ExitCode.FAILED
    assert "runs already at http://127.0.0.1:" in second.err
    assert first.running()
    assert run("status").returncode == ExitCode.OK


@pytest.mark.parametrize("victim", ["orchestratord", "pool_managerd"])
def test_a_daemon_that_dies_ends_up_with_its_last_lines(
    up: Callable[..., Command], victim: str
) -> None:
    command = serving(up())
    daemon = next(each for each in command.children() if victim in each.cmdline())
    daemon.kill()
    assert command.wait() == ExitCode.FAILED
    assert f"{victim} was killed by SIGKILL; its last lines" in command.err
    assert command.children() == []


def test_a_model_that_cannot_be_loaded_ends_up_in_plain_words(
    up: Callable[..., Command], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(4096))
    command = up("--model", str(broken), "--devices", "cpu")
    assert command.wait(180) == ExitCode.FAILED
    assert "pool default does not serve" in command.err
    assert "Traceback" not in command.err.split("pool default does not serve")[0]
    assert command.children() == []


def test_a_taken_port_is_one_line_and_leaves_nothing(home: Path, model: Path) -> None:
    """LO-SYS-027."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ports = ANY_PORTS | {"LLORCH_ORCHESTRATORD__PORT": port}
        command = Command(home, "up", "--model", str(model), "--devices", "cpu", **ports)
        try:
            assert command.wait() == ExitCode.FAILED
            assert port in command.err
            assert command.children() == []
        finally:
            command.close()
