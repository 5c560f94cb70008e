"""`sessions`: the live ones, and `show`, `set` and `end` of one."""

from __future__ import annotations

import re
from typing import Annotated, Any

import anyio
import typer
from rich.console import Group
from rich.text import Text

from contracts.sessions import SessionPage, SessionSettings, SessionView
from llama_orch.api import Api
from llama_orch.connection import Connection, discover
from llama_orch.failures import UsageMistake
from llama_orch.options import (
    ConfigFile,
    Json,
    SessionId,
    TokenFile,
    Url,
    body_of,
    checked_session_id,
    handed_down,
    milliseconds,
    session_id_or_new,
)
from llama_orch.output import Output
from llama_orch.paging import listed
from llama_orch.session_tables import session_facts, session_row, task_row
from llama_orch.tables import of_rows
from llama_orch.tasks import tasks_listed

NO_LIMIT = "none"

sessions_app = typer.Typer(name="sessions")


@sessions_app.callback(invoke_without_command=True)
def sessions(
    context: typer.Context,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """List the live sessions; show, set and end one."""
    given = {"json_mode": json_mode, "url": url, "token_file": token_file, "config": config}
    if handed_down(context, given):
        return 0
    return anyio.run(_list, discover(url, token_file, config), Output(json_mode=json_mode))


@sessions_app.command("show")
def show(
    session: SessionId,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Show one session, its budgets and its tasks."""
    session = checked_session_id(session)
    return anyio.run(_show, discover(url, token_file, config), Output(json_mode=json_mode), session)


@sessions_app.command("set")
def change(
    session: Annotated[
        str, typer.Argument(metavar="SESSION", help="The id of a session; `new` makes one.")
    ],
    budget_tokens: Annotated[
        str | None,
        typer.Option("--budget-tokens", metavar="N|none", help="Prompt and output tokens."),
    ] = None,
    budget_time: Annotated[
        str | None,
        typer.Option("--budget-time", metavar="SECONDS|none", help="Time its tasks may run."),
    ] = None,
    budget_cost: Annotated[
        str | None,
        typer.Option("--budget-cost", metavar="X|none", help="Tokens at the configured cost."),
    ] = None,
    ttl: Annotated[
        float | None, typer.Option("--ttl", metavar="SECONDS", help="Idle time to its end.")
    ] = None,
    max_turns: Annotated[
        int | None, typer.Option("--max-turns", metavar="N", help="Tasks it may run.")
    ] = None,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Make a session, or change what one may use; `none` takes a bound away.

    What is left out takes the default of the configuration, not what it was. What
    the session has used stays used.
    """
    fields: dict[str, Any] = {}
    if budget_tokens is not None:
        fields["budget_tokens"] = _limit("--budget-tokens", budget_tokens, whole=True)
    if budget_time is not None:
        seconds = _limit("--budget-time", budget_time)
        fields["budget_time_ms"] = (
            None if seconds is None else milliseconds("--budget-time", seconds)
        )
    if budget_cost is not None:
        fields["budget_cost"] = _limit("--budget-cost", budget_cost)
    if ttl is not None:
        fields["ttl_ms"] = milliseconds("--ttl", ttl)
    if max_turns is not None:
        fields["max_turns"] = max_turns
    session, settings = session_id_or_new(session), body_of(SessionSettings, fields)
    connection = discover(url, token_file, config)
    return anyio.run(_change, connection, Output(json_mode=json_mode), session, settings)


@sessions_app.command("end")
def end(
    session: SessionId,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """End a session: its queued tasks are canceled, its running ones finish."""
    session = checked_session_id(session)
    return anyio.run(_end, discover(url, token_file, config), Output(json_mode=json_mode), session)


async def _list(connection: Connection, output: Output) -> int:
    async with Api(connection) as api:
        views = await listed(lambda query: api.get("/v1/sessions", SessionPage, query))
    if output.json_mode:
        output.emit({"items": [view.model_dump(mode="json") for view in views]})
    elif not views:
        output.note("no session is live")
    else:
        output.show(of_rows([session_row(view) for view in views]))
    return 0


async def _show(connection: Connection, output: Output, session_id: str) -> int:
    async with Api(connection) as api:
        view = await api.get(f"/v1/sessions/{session_id}", SessionView)
        tasks = await tasks_listed(api, session_id=session_id)
    if output.json_mode:
        listing = [task.model_dump(mode="json") for task in tasks]
        output.emit(view.model_dump(mode="json") | {"tasks": listing})
        return 0
    output.show(session_facts(view))
    if tasks:
        output.show(Group(Text(""), of_rows([task_row(task) for task in tasks])))
    return 0


async def _change(
    connection: Connection, output: Output, session_id: str, settings: SessionSettings
) -> int:
    async with Api(connection) as api:
        view = await api.put_for(f"/v1/sessions/{session_id}", settings, SessionView)
    if output.json_mode:
        output.emit(view.model_dump(mode="json"))
    else:
        output.show(session_facts(view))
    return 0


async def _end(connection: Connection, output: Output, session_id: str) -> int:
    async with Api(connection) as api:
        await api.delete(f"/v1/sessions/{session_id}")
    if output.json_mode:
        output.emit({"session_id": session_id, "ended": True})
    else:
        output.note(f"session {session_id} has ended; what it had queued is canceled")
    return 0


def _limit(option: str, text: str, *, whole: bool = False) -> float | None:
    """A bound as it was typed; None is the word for no bound."""
    if text == NO_LIMIT:
        return None
    pattern = r"[0-9]{1,18}" if whole else r"[0-9]{1,18}(\.[0-9]{0,9})?|\.[0-9]{1,9}"
    if re.fullmatch(pattern, text) is None:
        kind = "a whole number" if whole else "a number"
        raise UsageMistake(f"{option}: {text!r} is neither {kind} nor `{NO_LIMIT}`")
    return int(text) if whole else float(text)
