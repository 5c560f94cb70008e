"""A command line run as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_orch.tests.scripted_server import TOKEN, Run, ScriptedServer, command_environment


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    made = ScriptedServer()
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with a token where the command looks for it."""
    state = tmp_path / ".local/state/llama-orch"
    state.mkdir(parents=True, mode=0o700)
    token = state / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    return tmp_path


@pytest.fixture
def run(home: Path) -> Run:
    """Run `llama-orch ARGS` in an empty home; keywords are environment variables."""

    def run(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llama_orch", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=command_environment(home) | environ,
        )

    return run
