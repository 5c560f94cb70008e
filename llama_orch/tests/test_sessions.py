"""`sessions`, `sessions show`, `set` and `end` against a scripted server."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from contracts.ids import is_uuid
from llama_orch.failures import ExitCode
from llama_orch.tests.scripted_server import (
    TOKEN,
    Run,
    ScriptedServer,
    answer,
    no_content,
    refusal,
    task_view,
)

SESSION = "9b2d4c1e-0a3f-4d5b-8c7e-6f1a2b3c4d5e"
OTHER = "11111111-0a3f-4d5b-8c7e-6f1a2b3c4d5e"
TASK = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
LIST = "GET /v1/sessions"
ONE = f"/v1/sessions/{SESSION}"


def budget(limit: float | None = None, spent: float = 0, reserved: float = 0) -> dict[str, Any]:
    remaining = None if limit is None else limit - spent - reserved
    return {"limit": limit, "spent": spent, "reserved": reserved, "remaining": remaining}


def session_view(session_id: str = SESSION, **fields: Any) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "created_ms": 1,
        "ttl_ms": 600_000,
        "ttl_ms_remaining": 90_000,
        "turns": 3,
        "max_turns": 8,
        "active": 0,
        "kv_warmth": 0.75,
        "replica_id": "chat/0",
        "budgets": {
            "tokens": budget(2000, 1188),
            "time_ms": budget(),
            "cost": budget(),
        },
        **fields,
    }


def given(value: Any) -> Any:
    return lambda handler: answer(handler, 200, value)


def page(*views: dict[str, Any], cursor: str | None = None) -> dict[str, Any]:
    return {"items": list(views), "next_cursor": cursor}


def query(handler: BaseHTTPRequestHandler) -> dict[str, list[str]]:
    return parse_qs(urlsplit(handler.path).query)


def test_the_list_leaves_out_what_no_session_has(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-050."""
    server.answers[LIST] = given(page(session_view()))
    lines = run("sessions", "--url", server.url).stdout.split("\n")
    assert lines[0].split("  ")[0] == "SESSION"
    assert [word for word in ("TOKENS", "TIME", "COST") if word in lines[0]] == ["TOKENS"]
    cells = [SESSION, "3/8", "0", "1.5 min", "75%", "chat/0", "1,188/2,000"]
    assert [cell for cell in cells if cell not in lines[1]] == []


def test_the_list_is_read_to_its_last_page(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-050."""

    def pages(handler: BaseHTTPRequestHandler) -> None:
        last = query(handler).get("cursor") == ["next"]
        view = session_view(OTHER if last else SESSION)
        answer(handler, 200, page(view, cursor=None if last else "next"))

    server.answers[LIST] = pages
    done = run("sessions", "--url", server.url, "--json")
    assert [item["session_id"] for item in json.loads(done.stdout)["items"]] == [SESSION, OTHER]


def test_no_session_is_said_on_stderr(run: Run, server: ScriptedServer) -> None:
    server.answers[LIST] = given(page())
    done = run("sessions", "--url", server.url)
    assert (done.returncode, done.stdout) == (ExitCode.OK, "")
    assert done.stderr == "no session is live\n"


@pytest.fixture
def shown(server: ScriptedServer) -> ScriptedServer:
    """A server with one session that waits with one task and has ended another."""
    waits = task_view(TASK, session_id=SESSION, predicted_start_ms=4200)
    usage = {
        "tokens_in": 12,
        "tokens_out": 40,
        "queue_ms": 1,
        "first_token_ms": 1,
        "decode_ms": 1,
    }
    ended = task_view(OTHER, session_id=SESSION, state="succeeded", usage=usage)
    server.answers[f"GET {ONE}"] = given(session_view(active=1))

    def tasks(handler: BaseHTTPRequestHandler) -> None:
        assert query(handler)["session_id"] == [SESSION]
        answer(handler, 200, page(waits, ended | {"queue_position": None}))

    server.answers["GET /v1/tasks"] = tasks
    return server


def test_show_has_the_budgets_and_the_tasks(run: Run, shown: ScriptedServer) -> None:
    """LO-CMD-051."""
    out = run("sessions", "show", SESSION.upper(), "--url", shown.url).stdout
    for words in (
        "3 of 8, 1 active",
        "75% of its newest prompt, on chat/0",
        "1,188 spent, 812 of 2,000 left",
        "0 ms spent, no limit",
        "about 4.2 s",
        "12 in, 40 out",
    ):
        assert words in out
    assert "ERROR" not in out


def test_show_under_json_is_the_session_with_its_tasks(run: Run, shown: ScriptedServer) -> None:
    """LO-CMD-012, LO-CMD-051."""
    told = json.loads(run("sessions", "show", SESSION, "--url", shown.url, "--json").stdout)
    assert [task["task_id"] for task in told.pop("tasks")] == [TASK, OTHER]
    assert told == session_view(active=1)


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ((), {}),
        (("--budget-tokens", "2000"), {"budget_tokens": 2000}),
        (("--budget-tokens", "none"), {"budget_tokens": None}),
        (
            ("--budget-time", "1.5", "--budget-cost", ".25"),
            {"budget_time_ms": 1500, "budget_cost": 0.25},
        ),
        (
            ("--budget-time", "none", "--budget-cost", "none"),
            {"budget_time_ms": None, "budget_cost": None},
        ),
        (("--ttl", "60", "--max-turns", "3"), {"ttl_ms": 60_000, "max_turns": 3}),
    ],
    ids=str,
)
def test_set_sends_what_was_given_and_nothing_else(
    run: Run, server: ScriptedServer, arguments: tuple[str, ...], body: dict[str, Any]
) -> None:
    """LO-CMD-052."""
    bodies: list[Any] = []

    def keep(handler: Any) -> None:
        bodies.append(json.loads(handler.body))
        answer(handler, 200, session_view())

    server.answers[f"PUT {ONE}"] = keep
    done = run("sessions", "set", SESSION, *arguments, "--url", server.url)
    assert done.returncode == ExitCode.OK
    assert bodies == [body]
    assert "1,188 spent, 812 of 2,000 left" in done.stdout


def test_set_new_makes_an_id(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-052."""
    for _ in range(2):
        run("sessions", "set", "new", "--url", server.url)
    names = {key.removeprefix("PUT /v1/sessions/") for key, _ in server.seen}
    assert len(names) == 2
    assert all(is_uuid(name) for name in names)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--budget-tokens", "0"),
        ("--budget-tokens", "many"),
        ("--budget-time", "0"),
        ("--budget-time", "1000000000"),
        ("--budget-cost", "0"),
        ("--budget-cost", "nan"),
        ("--ttl", "604800.001"),
        ("--max-turns", "1000001"),
    ],
)
def test_a_bound_out_of_bounds_names_its_option(
    run: Run, server: ScriptedServer, option: str, value: str
) -> None:
    """LO-CMD-010."""
    done = run("sessions", "set", SESSION, option, value, "--url", server.url)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith(f"error: {option}: ")
    assert server.seen == []


def test_end_deletes_the_session(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-053."""
    server.answers[f"DELETE {ONE}"] = no_content
    done = run("sessions", "end", SESSION, "--url", server.url)
    assert (done.returncode, done.stdout) == (ExitCode.OK, "")
    assert "what it had queued is canceled" in done.stderr
    assert len(server.calls(f"DELETE {ONE}")) == 1
    told = run("sessions", "end", SESSION, "--url", server.url, "--json")
    assert json.loads(told.stdout) == {"session_id": SESSION, "ended": True}


@pytest.mark.parametrize("command", ["show", "end"])
def test_an_unknown_session_is_refused_in_the_servers_words(
    run: Run, server: ScriptedServer, command: str
) -> None:
    """LO-CMD-010."""
    for method in ("GET", "DELETE"):
        server.answers[f"{method} {ONE}"] = refusal("NOT_FOUND", 404, "no such session")
    done = run("sessions", command, SESSION, "--url", server.url)
    assert done.returncode == ExitCode.REFUSED
    assert done.stderr == "error: NOT_FOUND: no such session\n"


def test_options_before_the_subcommand_hold_for_it(
    run: Run, server: ScriptedServer, home: Any
) -> None:
    """LO-CMD-054."""
    server.answers[f"DELETE {ONE}"] = no_content
    token = home / ".local/state/llama-orch/token"
    before = ("--url", server.url, "--token-file", str(token), "--json")
    done = run("sessions", *before, "end", SESSION, LLORCH_API_TOKEN="another")
    assert json.loads(done.stdout)["ended"] is True
    assert server.calls(f"DELETE {ONE}")[0]["authorization"] == f"Bearer {TOKEN}"
