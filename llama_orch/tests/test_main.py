"""The front door: help, exit codes, and no traceback whatever is typed."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llama_orch.failures import ExitCode, Refused
from llama_orch.main import _failure
from llama_orch.tests.scripted_server import (
    Run,
    ScriptedServer,
    answer,
    command_environment,
    refusal,
)

COMMANDS = {
    "up": ["--model", "--ctx", "--slots", "--devices", "--config", "--json"],
    "quickstart": ["--keep", "--json"],
    "submit": ["--chat", "--detach", "--wait", "--json", "--url", "--token-file"],
    "stream": ["--from", "--json", "--url", "--token-file"],
    "cancel": ["--json", "--url", "--token-file"],
    "status": ["--json", "--url", "--token-file"],
    "queue": ["--json", "--url", "--token-file"],
    "ps": ["--json", "--url", "--token-file"],
    "sessions": ["show", "set", "end", "--json", "--url", "--token-file"],
    "sessions show": ["--json", "--url", "--token-file"],
    "sessions set": ["--budget-tokens", "--budget-time", "--budget-cost", "--ttl", "--max-turns"],
    "sessions end": ["--json", "--url", "--token-file"],
    "config init": ["--force", "--json"],
    "config check": ["--config", "--json"],
    "config schema": ["--json"],
    "config show": ["--config", "--json"],
}
TASK = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
SESSION = "9b2d4c1e-0a3f-4d5b-8c7e-6f1a2b3c4d5e"
ASKING = [
    ["submit", "hello"],
    ["stream", TASK],
    ["cancel", TASK],
    ["status"],
    ["status", TASK],
    ["queue"],
    ["ps"],
    ["sessions"],
    ["sessions", "show", SESSION],
    ["sessions", "set", SESSION],
    ["sessions", "end", SESSION],
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_that_names_its_options(run: Run, command: str) -> None:
    """LO-CMD-012."""
    done = run(*command.split(), "--help")
    assert done.returncode == ExitCode.OK
    assert [option for option in COMMANDS[command] if option not in done.stdout] == []


def test_help_lists_every_command_and_the_exit_codes(run: Run) -> None:
    done = run("--help")
    assert [name for name in COMMANDS if name.split()[0] not in done.stdout] == []
    assert "3 unreachable" in done.stdout


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_nobody_listening_is_exit_3_and_names_url_and_remedy(run: Run, command: list[str]) -> None:
    """LO-CMD-010."""
    url = f"http://127.0.0.1:{free_port()}"
    done = run(*command, "--url", url)
    assert done.returncode == ExitCode.UNREACHABLE
    assert url in done.stderr
    assert "llama-orch up" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_a_refusal_is_exit_4_and_carries_the_envelope(
    run: Run, server: ScriptedServer, command: list[str]
) -> None:
    """LO-CMD-010, LO-CMD-012."""
    no = refusal("FORBIDDEN", 403, "not for you")
    for key in ("GET /v1/capabilities", "GET /readyz", "GET /v1/pools", "GET /v1/tasks"):
        server.answers[key] = no
    for key in (f"GET /v1/tasks/{TASK}", f"GET /v1/tasks/{TASK}/stream"):
        server.answers[key] = no
    server.answers[f"POST /v1/tasks/{TASK}/cancel"] = no
    for method in ("GET", "PUT", "DELETE"):
        server.answers[f"{method} /v1/sessions/{SESSION}"] = no
    server.answers["GET /v1/sessions"] = no
    done = run(*command, "--url", server.url, "--json")
    assert done.returncode == ExitCode.REFUSED
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "FORBIDDEN"
    assert error["message"] == "FORBIDDEN: not for you"
    assert error["exit_code"] == ExitCode.REFUSED


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["submit"],
        ["submit", "x", "--max-tokens", "zero"],
        ["submit", "x", "--max-tokens", "0"],
        ["submit", "x", "--seed", "-1"],
        ["submit", "x", "--temperature", "nan"],
        ["submit", "x", "--top-p", "2"],
        ["submit", "x", "--priority", "urgent"],
        ["submit", "x", "--deadline", "-5"],
        ["submit", "x", "--deadline", "nan"],
        ["submit", "x", "--task-id", "../../etc/passwd"],
        ["submit", "x", "--model", "a\nb"],
        ["submit", "x", "--wait", "-1"],
        ["submit", "x", "--session", "mine"],
        ["submit", "x", "--expect", "0"],
        ["sessions", "list"],
        ["sessions", "show", "../tasks"],
        ["sessions", "show", "new"],
        ["sessions", "end", "new"],
        ["sessions", "set", "mine"],
        ["sessions", "set", SESSION, "--budget-tokens", "0"],
        ["sessions", "set", SESSION, "--budget-tokens", "1.5"],
        ["sessions", "set", SESSION, "--budget-tokens", "-1"],
        ["sessions", "set", SESSION, "--budget-time", "nan"],
        ["sessions", "set", SESSION, "--budget-time", "0"],
        ["sessions", "set", SESSION, "--budget-cost", "1e3000"],
        ["sessions", "set", SESSION, "--ttl", "inf"],
        ["sessions", "set", SESSION, "--max-turns", "0"],
        ["submit", "x", "--token-file", "/nonexistent"],
        ["submit", "x", "--url", "gopher://there"],
        ["submit", "x", "--url", "http://[::1"],
        ["submit", "x", "--url", "not a url"],
        ["cancel", "a/../b"],
        ["stream", "\x1b[31m"],
        ["status", ""],
        ["up", "--model", "/nonexistent.gguf"],
        ["up", "--devices", "0"],
        ["up", "--slots", "0"],
    ],
    ids=repr,
)
def test_a_mistake_on_the_command_line_is_exit_2_and_one_line(
    run: Run, arguments: list[str]
) -> None:
    """LO-CMD-010, LO-CMD-011."""
    done = run(*arguments)
    assert done.returncode == ExitCode.USAGE
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == (1 if arguments else 0)


def test_a_usage_mistake_under_json_is_an_error_object(run: Run) -> None:
    """LO-CMD-012."""
    done = run("status", "--json", "--nonsense")
    assert done.returncode == ExitCode.USAGE
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "USAGE"
    assert "--nonsense" in error["message"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/json"),
        (b"<html>proxy</html>", "text/html"),
        (b"[" * 100_000, "application/json"),
        (b"{\xff}", "application/json"),
        (b'{"items": []}', "application/json"),
    ],
    ids=["empty", "html", "deep", "not-utf8", "other-shape"],
)
@pytest.mark.parametrize("status", [200, 500])
def test_a_foreign_answer_is_one_line_that_doubts_the_url(
    run: Run, server: ScriptedServer, body: bytes, kind: str, status: int
) -> None:
    """LO-CMD-011."""
    server.answers["GET /v1/pools"] = lambda handler: answer(
        handler, status, body, content_type=kind
    )
    done = run("ps", "--url", server.url)
    assert done.returncode == (ExitCode.FAILED if status == 200 else ExitCode.REFUSED)
    assert "check --url" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_token_says_which_token_was_tried(run: Run, server: ScriptedServer) -> None:
    server.answers["GET /v1/pools"] = refusal("UNAUTHENTICATED", 401, "wrong token")
    done = run("ps", "--url", server.url)
    assert done.returncode == ExitCode.REFUSED
    assert ".local/state/llama-orch/token" in done.stderr


def test_the_token_is_sent_and_never_printed(run: Run, server: ScriptedServer) -> None:
    """LO-SYS-032."""
    done = run("ps", "--url", server.url, LLORCH_API_TOKEN="canary-in-the-environment")
    assert server.calls("GET /v1/pools")[0]["authorization"] == "Bearer canary-in-the-environment"
    assert "canary" not in done.stdout + done.stderr


def test_a_token_file_others_can_read_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "open-token"
    path.write_text("secret")
    path.chmod(stat.S_IRUSR | stat.S_IROTH)
    done = run("ps", "--url", "http://127.0.0.1:1", "--token-file", str(path))
    assert done.returncode == ExitCode.USAGE
    assert "chmod 600" in done.stderr


def test_control_characters_of_a_server_do_not_reach_the_terminal(
    run: Run, server: ScriptedServer
) -> None:
    """LO-CMD-014."""
    server.answers["GET /v1/pools"] = refusal("INTERNAL", 500, "\x1b]0;owned\x07\x1b[2J")
    assert "\x1b" not in run("ps", "--url", server.url).stderr


def test_a_reader_that_left_is_not_a_traceback(run: Run, home: Path) -> None:
    """LO-CMD-011."""
    done = run("config", "schema")
    assert len(done.stdout) > 4096
    cut = subprocess.run(
        f"{sys.executable} -m llama_orch config schema | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env=command_environment(home),
    )
    assert cut.stderr == ""


def test_the_readme_names_every_command_and_exit_code() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`{name.split()[0]}" not in readme] == []
    assert [code for code in ExitCode if f"**{int(code)}**" not in readme] == []


def test_a_defect_is_told_as_one_without_a_traceback() -> None:
    """LO-CMD-011."""
    told = _failure(ExceptionGroup("", [ExceptionGroup("", [ZeroDivisionError("by zero")])]))
    assert "ZeroDivisionError" in told.message
    assert told.exit_code == ExitCode.FAILED


def test_of_several_failures_the_first_is_told() -> None:
    first = Refused("no", status=403)
    assert _failure(ExceptionGroup("", [first, ZeroDivisionError()])) is first
