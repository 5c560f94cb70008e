"""`submit` and `stream` against a server whose faults are chosen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from llama_orch.failures import ExitCode, UsageMistake
from llama_orch.submit import task_request
from llama_orch.tests.scripted_server import (
    Run,
    ScriptedServer,
    answer,
    command_environment,
    end,
    event,
    refusal,
    sse,
)

TASK = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
STREAM = f"GET /v1/tasks/{TASK}/stream"
CANCEL = f"POST /v1/tasks/{TASK}/cancel"
POST = "POST /v1/tasks"
SUBMIT = ("submit", "--model", "m", "--task-id", TASK)
ADMISSION = {
    "task_id": TASK,
    "state": "queued",
    "queue_position": 2,
    "predicted_start_ms": None,
    "backoff_ms": 0,
    "stream_url": f"/v1/tasks/{TASK}/stream",
}
SESSION = "9b2d4c1e-0a3f-4d5b-8c7e-6f1a2b3c4d5e"
WAITS = {
    "queue_depth": 2,
    "queue_position": 1,
    "predicted_start_ms": 4200,
    "on_time_probability": 0.35,
    "kv_warmth": 0.0,
    "kv_migrated": False,
}
STARTED = {"replica_id": "chat/0", "engine_version": "b1", "attempt": 1}


def admit(handler: BaseHTTPRequestHandler) -> None:
    answer(handler, 202, ADMISSION)


def two_tokens(handler: BaseHTTPRequestHandler) -> None:
    sse(
        handler,
        event(1, "started", **STARTED),
        event(2, "token", t="a\x1b[31m", i=0),
        event(3, "token", t="\u2028b", i=1),
        end(4),
    )


@pytest.fixture
def serving(server: ScriptedServer) -> ScriptedServer:
    server.answers[POST] = admit
    server.answers[STREAM] = two_tokens
    return server


def test_tokens_go_to_stdout_as_they_are_and_the_rest_to_stderr(
    run: Run, serving: ScriptedServer
) -> None:
    """LO-CMD-010, LO-CMD-030."""
    done = run(*SUBMIT, "hi", "--url", serving.url)
    assert done.returncode == ExitCode.OK
    assert done.stdout == "a\x1b[31m\u2028b\n"
    assert "2 tasks ahead" in done.stderr
    assert "2 tokens · 100.0 tokens/s · first token after 2 ms" in done.stderr
    assert "\x1b" not in done.stderr


def test_json_is_one_event_per_line(run: Run, serving: ScriptedServer) -> None:
    """LO-CMD-012."""
    done = run(*SUBMIT, "hi", "--url", serving.url, "--json")
    lines = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert [line["event"] for line in lines] == ["admission", "started", "token", "token", "end"]
    assert "".join(line["data"]["t"] for line in lines[2:4]) == "a\x1b[31m\u2028b"


def test_a_failed_task_is_exit_1_with_its_code(run: Run, serving: ScriptedServer) -> None:
    """LO-CMD-010."""
    serving.answers[STREAM] = lambda handler: sse(
        handler, event(1, "error", code="WORKER_RESET", message="it died", retriable=True)
    )
    done = run(*SUBMIT, "hi", "--url", serving.url)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.endswith("error: WORKER_RESET: it died\n")


def test_detach_prints_the_id_and_reads_no_stream(run: Run, serving: ScriptedServer) -> None:
    """LO-CMD-032."""
    done = run(*SUBMIT, "hi", "--url", serving.url, "--detach")
    assert done.stdout == f"{TASK}\n"
    assert serving.calls(STREAM) == []


def test_stdin_is_the_prompt_and_system_makes_it_a_chat(run: Run, server: ScriptedServer) -> None:
    bodies: list[Any] = []

    def keep(handler: Any) -> None:
        bodies.append(json.loads(handler.body))
        admit(handler)

    server.answers[POST] = keep
    arguments = ("-", "--system", "be brief", "--stop", "a", "--stop", "b", "--deadline", "1.5")
    run(*SUBMIT, *arguments, "--url", server.url, "--detach", stdin="from a pipe\n")
    assert bodies[0]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "from a pipe\n"},
    ]
    assert bodies[0]["stop"] == ["a", "b"]
    assert bodies[0]["deadline_ms"] == 1500
    assert bodies[0]["max_tokens"] == 256


def test_session_guess_and_cold_are_part_of_the_task(run: Run, server: ScriptedServer) -> None:
    bodies: list[Any] = []

    def keep(handler: Any) -> None:
        bodies.append(json.loads(handler.body))
        admit(handler)

    server.answers[POST] = keep
    asked = ("--session", SESSION.upper(), "--expect", "40", "--cold")
    done = run(*SUBMIT, "hi", *asked, "--detach", "--json", "--url", server.url)
    run(*SUBMIT, "hi", "--detach", "--url", server.url)
    names = ("session_id", "expected_tokens", "kv_hint")
    assert [bodies[0][name] for name in names] == [SESSION, 40, "cold"]
    assert [name for name in names if name in bodies[1]] == []
    assert json.loads(done.stdout) == ADMISSION  # the session is known to who named it


@pytest.mark.parametrize("extra", [(), ("--json",), ("--detach",), ("--detach", "--json")], ids=str)
def test_a_new_session_is_made_and_named(
    run: Run, serving: ScriptedServer, extra: tuple[str, ...]
) -> None:
    """LO-CMD-038."""
    made: list[str] = []

    def keep(handler: Any) -> None:
        made.append(json.loads(handler.body)["session_id"])
        admit(handler)

    serving.answers[POST] = keep
    done = run(*SUBMIT, "hi", "--session", "new", *extra, "--url", serving.url)
    assert done.returncode == ExitCode.OK
    first = done.stdout.split("\n")[0]
    if extra == ("--json",):
        assert json.loads(first) == {"event": "session", "data": {"session_id": made[0]}}
    elif extra == ("--detach", "--json"):
        assert json.loads(done.stdout) == {**ADMISSION, "session_id": made[0]}
    else:
        assert f"session {made[0]}\n" in done.stderr
        assert made[0] not in done.stdout


def test_a_session_of_a_refused_task_is_not_named(run: Run, serving: ScriptedServer) -> None:
    """LO-CMD-038."""
    serving.answers[POST] = refusal("QUEUE_FULL", 429, "256 tasks wait")
    done = run(*SUBMIT, "hi", "--session", "new", "--json", "--url", serving.url)
    assert done.returncode == ExitCode.REFUSED
    assert list(json.loads(done.stdout)) == ["error"]


def test_the_wait_and_the_figures_say_what_the_server_knows(
    run: Run, serving: ScriptedServer
) -> None:
    """LO-CMD-034, LO-CMD-036, LO-CMD-037."""
    tokens = {"limit": 2000, "reserved": 0, "spent": 1188, "remaining": 812}
    serving.answers[STREAM] = lambda handler: sse(
        handler,
        event(1, "metrics", **WAITS),
        event(2, "started", **STARTED),
        event(3, "metrics", queue_depth=0, on_time_probability=1.0, kv_warmth=0.75),
        event(4, "token", t="a", i=0),
        end(5, budgets={"tokens": tokens}),
    )
    done = run(*SUBMIT, "hi", "--url", serving.url)
    wait = "1 task ahead, starts in about 4.2 s, 35% likely to meet its deadline"
    assert wait in done.stderr
    assert "prompt 3 tokens, 75% in the cache" in done.stderr
    assert done.stderr.endswith("session: 812 of 2,000 tokens left\n")
    assert done.stdout == "a\n"


def test_a_full_queue_is_exit_4_and_says_when_to_try_again(
    run: Run, serving: ScriptedServer
) -> None:
    serving.answers[POST] = refusal("QUEUE_FULL", 429, "256 tasks wait", retry_after_ms=1500)
    done = run(*SUBMIT, "hi", "--url", serving.url)
    assert done.returncode == ExitCode.REFUSED
    assert "QUEUE_FULL: 256 tasks wait (try again in 1.5 s)" in done.stderr
    assert len(serving.calls(POST)) == 1


def test_wait_tries_again_when_the_server_said_to(run: Run, serving: ScriptedServer) -> None:
    replies = iter([refusal("QUEUE_FULL", 429, retry_after_ms=50), admit])
    serving.answers[POST] = lambda handler: next(replies)(handler)
    done = run(*SUBMIT, "hi", "--url", serving.url, "--wait", "20")
    assert done.returncode == ExitCode.OK
    assert len(serving.calls(POST)) == 2


def test_wait_ends(run: Run, serving: ScriptedServer) -> None:
    serving.answers[POST] = refusal("QUEUE_FULL", 429, retry_after_ms=60_000)
    done = run(*SUBMIT, "hi", "--url", serving.url, "--wait", "20")
    assert done.returncode == ExitCode.REFUSED


def test_an_answer_that_was_lost_is_asked_for_again_under_the_same_id(
    run: Run, serving: ScriptedServer
) -> None:
    ids: list[str] = []

    def lose_the_first(handler: Any) -> None:
        ids.append(json.loads(handler.body)["task_id"])
        if len(ids) == 1:
            handler.close_connection = True
        else:
            admit(handler)

    serving.answers[POST] = lose_the_first
    assert run(*SUBMIT, "hi", "--url", serving.url).returncode == ExitCode.OK
    assert ids == [TASK, TASK]


class Running:
    """A `submit` under way against a stream that stays open until released."""

    def __init__(self, home: Path, server: ScriptedServer, *extra: str) -> None:
        self.streaming = threading.Event()
        self.canceled = threading.Event()
        self.release = threading.Event()
        self.closed = False
        server.answers[STREAM] = self._stream
        server.answers[CANCEL] = self._cancel
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llama_orch", *SUBMIT, "hi", "--url", server.url, *extra],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=command_environment(home),
        )

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        sse(handler, event(1, "started", **STARTED), event(2, "token", t="a", i=0))
        handler.wfile.flush()
        self.streaming.set()
        self.release.wait(30)
        with suppress(BrokenPipeError):  # the reader may have left
            handler.wfile.write(event(3, "error", code="CANCELED", message="gone", retriable=False))

    def _cancel(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(204)
        handler.end_headers()
        self.canceled.set()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.mark.parametrize("extra", [(), ("--json",)], ids=["text", "json"])
def test_ctrl_c_cancels_the_task_and_waits_for_its_end(
    home: Path, serving: ScriptedServer, extra: tuple[str, ...]
) -> None:
    """LO-CMD-031."""
    running = Running(home, serving, *extra)
    assert running.streaming.wait(30)
    running.interrupt()
    assert running.canceled.wait(30)
    running.release.set()
    code, out, err = running.ended()
    assert code == ExitCode.FAILED
    assert "the task was canceled" in (out if extra else err)
    assert "Traceback" not in err


def test_a_second_ctrl_c_leaves_at_once(home: Path, serving: ScriptedServer) -> None:
    running = Running(home, serving)
    try:
        assert running.streaming.wait(30)
        running.interrupt()
        assert running.canceled.wait(30)
        running.interrupt()
        code, _, err = running.ended()
    finally:
        running.release.set()
    assert code == ExitCode.INTERRUPTED
    assert "Traceback" not in err


def on_a_terminal(home: Path, *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal; its exit code, and what was written there."""
    terminal, side = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_orch", *arguments],
        stdin=side,
        stdout=side,
        stderr=side,
        env=command_environment(home) | {"TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(side)
    shown = b""
    while chunk := _read(terminal):
        shown += chunk
    os.close(terminal)
    return process.wait(30), shown.decode()


def test_on_a_terminal_tokens_are_live_and_harmless(home: Path, serving: ScriptedServer) -> None:
    """LO-CMD-014, LO-CMD-030."""
    code, text = on_a_terminal(home, *SUBMIT, "hi", "--url", serving.url)
    assert code == ExitCode.OK
    assert "a\N{REPLACEMENT CHARACTER}[31m" in text
    assert "started on chat/0, b1, reading the prompt" in text
    assert "\x1b[3" not in text  # NO_COLOR


def test_on_a_terminal_the_wait_is_drawn_anew(home: Path, serving: ScriptedServer) -> None:
    """LO-CMD-034."""
    canceled = event(3, "error", code="CANCELED", message="gone", retriable=False)
    later = event(2, "metrics", **WAITS | {"predicted_start_ms": 4100})
    serving.answers[STREAM] = lambda handler: sse(
        handler, event(1, "metrics", **WAITS), later, canceled
    )
    _, text = on_a_terminal(home, *SUBMIT, "hi", "--url", serving.url)
    assert "1 task ahead, starts in about 4.1 s" in text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the last writer has gone
        return b""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "--max-tokens: "),
        ({"top_k": -1}, "--top-k: "),
        ({"deadline_ms": 0}, "--deadline: "),
        ({"stop": [""]}, "--stop: "),
        ({"prompt": "x" * 16_777_217}, "--prompt: "),
    ],
)
def test_a_value_out_of_bounds_names_its_option(fields: dict[str, Any], message: str) -> None:
    good = {"model": "m", "prompt": "p", "max_tokens": 1}
    with pytest.raises(UsageMistake, match=message):
        task_request({**good, **fields})
