"""`pools`: how they are, and `health`, `drain`, `reload` and `resume` of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from contracts.capabilities import PoolPage, PoolStatus
from contracts.model import Contract
from contracts.pools import (
    MODEL_REF_PATTERN,
    DrainRequest,
    PoolChange,
    PoolHealth,
    ReloadRequest,
    ReloadState,
)
from llama_orch.api import Api
from llama_orch.connection import Connection, discover
from llama_orch.failures import Failed, UsageMistake
from llama_orch.options import (
    ConfigFile,
    Json,
    PoolName,
    TokenFile,
    Url,
    body_of,
    checked_pool_id,
    handed_down,
    time_span_ms,
)
from llama_orch.output import Output, printable
from llama_orch.overview import error_words, pool_table
from llama_orch.pool_plan import show_plans
from llama_orch.pool_waits import Reloading, wait_drained
from llama_orch.preparing import WORDS
from llama_orch.tables import headed, of_facts

Deadline = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="TIME",
        help="As 30s, 500ms, 5m or seconds: running tasks are cut then.",
    ),
]

pools_app = typer.Typer(name="pools")


@pools_app.callback(invoke_without_command=True)
def pools(
    context: typer.Context,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """List the pools; look at, drain, reload and resume one."""
    given = {"json_mode": json_mode, "url": url, "token_file": token_file, "config": config}
    if handed_down(context, given):
        return 0
    return anyio.run(_list, discover(url, token_file, config), Output(json_mode=json_mode))


@pools_app.command("plan")
def plan(
    pool: Annotated[
        str | None, typer.Argument(metavar="POOL", help="The pool; without one: every pool.")
    ] = None,
    json_mode: Json = False,
    config: ConfigFile = None,
) -> int:
    """Show what pools will do to come up, and what this machine lacks; starts nothing."""
    pool = None if pool is None else checked_pool_id(pool)
    return show_plans(pool, config, Output(json_mode=json_mode))


@pools_app.command("health")
def health(
    pool: PoolName,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Show whether a pool lives, is ready and progresses, and why not."""
    pool = checked_pool_id(pool)
    return anyio.run(_health, discover(url, token_file, config), Output(json_mode=json_mode), pool)


@pools_app.command("drain")
def drain(
    pool: PoolName,
    deadline: Deadline = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return once nothing of it runs any more.")
    ] = False,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Let a pool take no new task; what runs may finish, or is cut at the deadline."""
    fields: dict[str, Any] = {}
    if deadline is not None:
        fields["deadline_ms"] = time_span_ms("--deadline", deadline)
    pool, wanted = checked_pool_id(pool), body_of(DrainRequest, fields)
    connection, output = discover(url, token_file, config), Output(json_mode=json_mode)
    return anyio.run(_drain, connection, output, pool, wanted, wait)


@pools_app.command("reload")
def reload(
    pool: PoolName,
    model_ref: Annotated[
        str, typer.Argument(metavar="MODEL_REF", help="The new model: a ref, or a path.")
    ],
    digest: Annotated[
        str | None, typer.Option("--digest", metavar="sha256:…", help="What it must hash to.")
    ] = None,
    deadline: Deadline = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow it to its end, or return at once.")
    ] = True,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Serve another model; where that fails, the last good one serves on."""
    fields: dict[str, Any] = {"new_model_ref": _model_ref(model_ref)}
    if digest is not None:
        fields["digest"] = digest
    if deadline is not None:
        fields["deadline_ms"] = time_span_ms("--deadline", deadline)
    pool, wanted = checked_pool_id(pool), body_of(ReloadRequest, fields)
    connection, output = discover(url, token_file, config), Output(json_mode=json_mode)
    return anyio.run(_reload, connection, output, pool, wanted, wait)


@pools_app.command("resume")
def resume(
    pool: PoolName,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Let a drained pool take tasks again."""
    pool = checked_pool_id(pool)
    return anyio.run(_resume, discover(url, token_file, config), Output(json_mode=json_mode), pool)


async def _list(connection: Connection, output: Output) -> int:
    async with Api(connection) as api:
        page = await api.get("/v1/pools", PoolPage)
    if output.json_mode:
        output.emit(page.model_dump(mode="json"))
    else:
        output.show(pool_table(page.items))
    return 0


async def _health(connection: Connection, output: Output, pool_id: str) -> int:
    async with Api(connection) as api:
        found = await api.get(f"/v1/pools/{pool_id}/health", PoolHealth)
    if output.json_mode:
        output.emit(found.model_dump(mode="json"))
        return 0
    output.show(_health_facts(found))
    if found.replicas:
        output.show(Group(Text(""), _replica_table(found)))
    for replica in found.replicas:
        if replica.degraded is not None:
            output.note(f"{replica.replica_id}: {replica.degraded}", style="yellow")
    if found.last_error is not None and not found.ready:
        output.note(error_words(found.last_error), style="red")
    return 0


async def _drain(
    connection: Connection, output: Output, pool_id: str, wanted: DrainRequest, wait: bool
) -> int:
    async with Api(connection) as api:
        change = await _changed(api, pool_id, "drain", wanted)
        if wait:
            await wait_drained(api, output, change)
    if output.json_mode:
        output.emit(change.model_dump(mode="json"))
    elif wait:
        output.note(f"pool {pool_id} is drained; `llama-orch pools resume {pool_id}` ends that")
    else:
        output.note(f"pool {pool_id} takes no new task; what runs may finish")
    return 0


async def _reload(
    connection: Connection, output: Output, pool_id: str, wanted: ReloadRequest, wait: bool
) -> int:
    async with Api(connection) as api:
        reloading = await Reloading.before(api, output, pool_id, wanted.new_model_ref)
        change = await _changed(api, pool_id, "reload", wanted)
        ended = await reloading.followed() if wait else None
    if ended is not None:
        _refuse_failed(pool_id, wanted, ended)
    if output.json_mode:
        told = change.model_dump(mode="json")
        output.emit(told if ended is None else told | {"model_ref": ended.model_ref})
    elif ended is None:
        output.note(f"pool {pool_id} is loading {wanted.new_model_ref}")
    else:
        output.note(f"pool {pool_id} serves {ended.model_ref}")
    return 0


def _refuse_failed(pool_id: str, wanted: ReloadRequest, pool: PoolStatus) -> None:
    """Raises Failed where the pool does not serve what was asked for, saying what it serves."""
    reload = pool.reload
    if reload is not None and reload.to_ref == wanted.new_model_ref:
        if reload.state is ReloadState.ROLLED_BACK:
            raise Failed(
                f"pool {pool_id} was rolled back: {reload.message}; it serves {pool.model_ref}"
            )
        if reload.state is ReloadState.FAILED:
            raise Failed(f"pool {pool_id} serves no model: {reload.message}")
    if pool.model_ref != wanted.new_model_ref:
        raise Failed(f"pool {pool_id} serves {pool.model_ref}: another change overtook this one")


async def _resume(connection: Connection, output: Output, pool_id: str) -> int:
    async with Api(connection) as api:
        change = await _changed(api, pool_id, "resume", None)
    if output.json_mode:
        output.emit(change.model_dump(mode="json"))
    else:
        output.note(f"pool {pool_id} takes tasks")
    return 0


async def _changed(api: Api, pool_id: str, change: str, wanted: Contract | None) -> PoolChange:
    return await api.post_for(f"/v1/pools/{pool_id}/{change}", wanted, PoolChange)


def _model_ref(text: str) -> str:
    """A ref as it is; a path as the ref of that file or directory."""
    if re.fullmatch(MODEL_REF_PATTERN, text):
        return text
    path = Path(text).expanduser()
    if not path.exists():
        raise UsageMistake(f"MODEL_REF: {text}: no such file, and no ref such as file:/path")
    return f"file:{path.absolute()}"


def _health_facts(found: PoolHealth) -> Table:
    table = of_facts()
    table.add_row("pool", found.pool_id)
    table.add_row("live", _yes(found.live))
    table.add_row("ready", _yes(found.ready))
    table.add_row("draining", _yes(found.draining))
    table.add_row("progressing", _yes(found.progressing))
    table.add_row("restarts", str(found.restarts))
    table.add_row("breaker", found.breaker.replace("_", " "))
    if found.reload is not None:
        reload = found.reload
        state = reload.state.value.replace("_", " ")
        table.add_row("reload", printable(f"{state}: {reload.to_ref}: {reload.message}"))
    return table


def _replica_table(found: PoolHealth) -> Table:
    table = headed("REPLICA", "STATE", "SLOTS", "RESTARTS", "MODEL")
    for replica in found.replicas:
        table.add_row(
            replica.replica_id,
            WORDS[replica.state],
            f"{replica.slots_used}/{replica.slots_total}",
            str(replica.restarts),
            printable(replica.model_ref or ""),
        )
    return table


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
