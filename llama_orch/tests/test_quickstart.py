"""`quickstart` from end to end: real daemons, real llama.cpp, nothing left behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_orch.failures import ExitCode
from llama_orch.tests.real_daemons import Command
from llama_orch.tests.scripted_server import Run

pytest.importorskip("xllamacpp", reason="xllamacpp: install the extra `embedded`")
pytestmark = pytest.mark.slow


@pytest.fixture
def started(home: Path) -> Iterator[list[Command]]:
    commands: list[Command] = []
    yield commands
    for command in commands:
        command.close()


def test_quickstart_shows_the_whole_way_and_leaves_nothing(
    home: Path, started: list[Command]
) -> None:
    # Settings of a running instance must not reach it.
    """LO-CMD-002, LO-CMD-003."""
    command = Command(home, "quickstart", LLORCH_ORCHESTRATORD__PORT="1", LLORCH_API_TOKEN="other")
    started.append(command)
    assert command.wait() == ExitCode.OK, command.err
    assert re.search(r"queued, [12] tasks? ahead", command.err)
    assert re.search(r"\d+ tokens · [0-9.]+ tokens/s · first token after", command.err)
    assert "random words" in command.err
    assert "llama-orch up --model FILE.gguf" in command.err
    assert len(command.out.split()) > 5
    assert command.children() == []
    assert list(command.temporary.iterdir()) == []
    assert "Traceback" not in command.err


def test_quickstart_under_json_prints_events(home: Path, started: list[Command]) -> None:
    """LO-CMD-012."""
    command = Command(home, "quickstart", "--json")
    started.append(command)
    assert command.wait() == ExitCode.OK, command.err
    names = [json.loads(line)["event"] for line in command.out.split("\n")[:-1]]
    assert names[0] == "admission"
    assert names[-1] == "end"
    assert names.count("token") > 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["making a tiny model", "starting", "sending"])
def test_an_interrupted_quickstart_leaves_nothing(
    home: Path, started: list[Command], number: signal.Signals, after: str
) -> None:
    """LO-CMD-002."""
    command = Command(home, "quickstart")
    started.append(command)
    wait_for(command, after)
    command.process.send_signal(number)
    assert command.wait() == 128 + number, command.err
    assert command.children() == []
    assert list(command.temporary.iterdir()) == []
    assert "Traceback" not in command.err


def test_keep_leaves_it_serving_and_the_stop_command_ends_it(
    run: Run, home: Path, started: list[Command]
) -> None:
    """LO-CMD-004."""
    command = Command(home, "quickstart", "--keep")
    started.append(command)
    assert command.wait() == ExitCode.OK, command.err
    url = found(r"^url +(\S+)$", command.err)
    token = found(r"^token +(\S+)$", command.err)
    stop = found(r"^  sh (\S+)$", command.err)
    asked = run("submit", "again", "--max-tokens", "4", "--url", url, "--token-file", token)
    assert asked.returncode == ExitCode.OK, asked.stderr
    curl = found(r"(?s)(curl -N .*?)\n\n", command.err)
    answered = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True)
    assert "event: end" in answered.stdout
    subprocess.run(["sh", stop], check=True, timeout=60)
    assert command.children() == []
    assert list(command.temporary.iterdir()) == []


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, text
    return match[1]


def wait_for(command: Command, text: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while text not in command.err:
        assert command.running(), command.err
        assert time.monotonic() < deadline, command.err
        time.sleep(0.02)
