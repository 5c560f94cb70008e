"""`queue` and `status TASK`: what waits, where and until when."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from llama_orch.paging import LISTED_MAX, listed
from llama_orch.tables import of_rows
from llama_orch.tests.scripted_server import Run, ScriptedServer, answer, task_view

SESSION = "9b2d4c1e-0a3f-4d5b-8c7e-6f1a2b3c4d5e"
FIRST = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
SECOND = "11111111-5717-4562-b3fc-2c963f66afa6"


def queued(server: ScriptedServer, *views: dict[str, Any]) -> None:
    """Let `server` have these tasks queued, and none running."""

    def tasks(handler: BaseHTTPRequestHandler) -> None:
        items = list(views) if "state=queued" in handler.path else []
        answer(handler, 200, {"items": items, "next_cursor": None})

    server.answers["GET /v1/tasks"] = tasks


def test_the_queue_shows_predicted_starts_next_first(run: Run, server: ScriptedServer) -> None:
    """LO-CMD-039."""
    queued(
        server,
        task_view(SECOND, queue_position=1, predicted_start_ms=90_000),
        task_view(FIRST, queue_position=0, predicted_start_ms=400),
    )
    lines = run("queue", "--url", server.url).stdout.split("\n")
    assert "STARTS IN" in lines[0]
    assert FIRST in lines[1]
    assert "less than a second" in lines[1]
    assert SECOND in lines[2]
    assert "about 1.5 min" in lines[2]


def test_the_queue_has_no_column_for_what_is_not_known(run: Run, server: ScriptedServer) -> None:
    queued(server, task_view(FIRST))
    assert "STARTS IN" not in run("queue", "--url", server.url).stdout


def test_a_task_is_shown_with_its_session_and_predicted_start(
    run: Run, server: ScriptedServer
) -> None:
    """LO-CMD-039."""
    view = task_view(FIRST, session_id=SESSION, predicted_start_ms=4200)
    server.answers[f"GET /v1/tasks/{FIRST}"] = lambda handler: answer(handler, 200, view)
    rows = dict(
        line.strip().split("  ", 1)
        for line in run("status", FIRST, "--url", server.url).stdout.split("\n")[:-1]
    )
    assert rows["session"].strip() == SESSION
    assert rows["starts in"].strip() == "about 4.2 s"


class EndlessPage:
    """A page after which there is always another."""

    items = ("a",) * 300
    next_cursor = "more"


@pytest.mark.anyio
async def test_a_list_without_an_end_is_cut() -> None:
    async def fetch(query: dict[str, str]) -> EndlessPage:
        return EndlessPage()

    assert LISTED_MAX <= len(await listed(fetch)) < LISTED_MAX + 300


def test_a_table_of_nothing_has_no_columns() -> None:
    assert of_rows([]).columns == []
