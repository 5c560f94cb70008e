"""`up`: both daemons in the foreground, until Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner

from contracts.capabilities import PoolPage, PoolStatus
from contracts.config import Config
from contracts.service.settings import (
    ConfigError,
    Settings,
    load_settings,
    read_config,
    state_dir_of,
)
from llama_orch.api import Api
from llama_orch.config_commands import config_yaml
from llama_orch.connection import Connection, running_daemon
from llama_orch.daemons import Daemons
from llama_orch.failures import ExitCode, Failed, Unreachable, UsageMistake
from llama_orch.greeting import greeting, token_path
from llama_orch.options import ConfigFile, Json
from llama_orch.output import Output
from llama_orch.overview import error_lines, error_words, replica_table
from llama_orch.preparing import Speeds, bars, state_words
from llama_orch.single_model import WORKLOADS, with_single_model
from llama_orch.supervision import Supervision

POLL_S = 0.5
CALM_POLL_S = 2.0


def up(
    config: ConfigFile = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE.gguf", help="Serve this model alone.")
    ] = None,
    ctx: Annotated[
        int, typer.Option("--ctx", min=16, max=16_777_216, help="With --model: tokens per task.")
    ] = 4096,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=1024, help="With --model: tasks at once, per card.")
    ] = 1,
    devices: Annotated[
        str | None,
        typer.Option("--devices", metavar="0,1|cpu", help="With --model: a replica on each card."),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload",
            metavar="|".join(WORKLOADS),
            help="With --model: what it was made for, generation where left out.",
        ),
    ] = None,
    json_mode: Json = False,
) -> int:
    """Start both daemons and show them until Ctrl-C, which drains and stops them.

    Serves the pools of the configuration, or one GGUF file with --model: on the
    CPU with the built-in llama.cpp, or with --devices by the llama-server on PATH.

    With --json: one object per line, `{"event": "ready" | "state" | "stopped", ...}`.
    """
    output = Output(json_mode=json_mode)
    if model is None and devices is not None:
        raise UsageMistake("--devices goes with --model; a configuration names its own devices")
    if model is None and workload is not None:
        raise UsageMistake("--workload goes with --model; a configuration has one for each pool")
    try:
        if model is None:
            settings = load_settings(config)
        else:
            base, _ = read_config(config, missing_ok=True)
            single = with_single_model(
                base, model, ctx=ctx, slots=slots, devices=devices, workload=workload
            )
            settings = load_settings(write_config(single))
    except ConfigError as error:
        raise Failed(str(error)) from None
    refuse_second(settings.state_dir)
    return anyio.run(partial(_up, settings, output, one_model=model is not None, named=config))


def write_config(config: Config) -> Path:
    """`config` as a file in its own state directory, for the daemons to read."""
    directory = state_dir_of(config)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "up.yaml"
        path.touch(mode=0o600)
        path.write_text(config_yaml(config, defaults=False), encoding="utf-8")
    except OSError as error:
        raise Failed(f"state_dir: {directory}: {error.strerror}") from None
    return path


def refuse_second(state_dir: Path) -> None:
    """Say who runs already, before a daemon would exit with 75 over it.

    A glance, for a good message; the daemons' own locks decide.
    """
    running = running_daemon(state_dir, "orchestratord")
    if running is None or not Path(f"/proc/{running.pid}").exists():
        return
    raise Failed(
        f"llama-orch runs already at {running.url} (pid {running.pid}); use it, stop it with"
        f" `kill {running.pid}`, or set another state_dir"
    )


async def _up(settings: Settings, output: Output, *, one_model: bool, named: Path | None) -> int:
    daemons = Daemons(settings.config, settings.config_path, settings.state_dir)
    supervision = Supervision(daemons, output.note)
    await supervision.run(partial(_show, settings, output, one_model, named))
    if output.json_mode:
        output.emit({"event": "stopped"})
    else:
        output.note("stopped")
    return ExitCode.OK


async def _show(
    settings: Settings, output: Output, one_model: bool, named: Path | None, url: str
) -> None:
    connection = Connection(url, settings.token, "the configuration")
    async with Api(connection) as api:
        page = await wait_until_serving(api, output, give_up=one_model)
        if output.json_mode:
            output.emit(_ready_facts(url, settings, page))
        else:
            output.write(greeting(url, settings, page, named))
        await _tell_changes(api, output, page)


async def wait_until_serving(api: Api, output: Output, *, give_up: bool) -> PoolPage:
    """Show the replicas until one of each pool serves, or none will for now.

    Raises:
        Failed: with `give_up`, where no pool serves and none is still trying.
    """
    said: set[str] = set()
    with _live_table(output) as draw:
        while True:
            page = await api.get("/v1/pools", PoolPage)
            lines = _state_lines(page)
            if draw is not None:
                draw(page)
            else:
                for line in sorted(lines - said):
                    output.note(line)
            said |= lines
            if page.items and all(_settled(pool) for pool in page.items):
                break
            await anyio.sleep(POLL_S)
    if give_up and not any(pool.ready for pool in page.items):
        raise Failed("; ".join(_why(pool) for pool in page.items))
    for line in error_lines(page.items):
        output.note(line, style="red")
    return page


@contextmanager
def _live_table(output: Output) -> Generator[Callable[[PoolPage], None] | None, None, None]:
    """What draws a page in place; None where stderr is no terminal."""
    if not output.notes.is_terminal:
        yield None
        return
    spinner = Spinner("dots", "waiting for the model to serve")
    speeds = Speeds()
    with Live(console=output.notes, transient=True, refresh_per_second=8) as live:

        def draw(page: PoolPage) -> None:
            speeds.observe(page)
            on_the_way = bars(page, speeds)
            shown = () if on_the_way is None else (on_the_way,)
            live.update(Group(replica_table(page), *shown, spinner))

        yield draw


def _settled(pool: PoolStatus) -> bool:
    return pool.ready or pool.breaker == "open"


def _why(pool: PoolStatus) -> str:
    if pool.last_error is None:
        return f"pool {pool.pool_id} does not serve"
    tail = "".join(f"\n  {line}" for line in pool.last_error.log_tail[-8:])
    return f"pool {pool.pool_id} does not serve: {error_words(pool.last_error)}{tail}"


async def _tell_changes(api: Api, output: Output, page: PoolPage) -> None:
    """One line per change of a replica's state, for as long as the daemons run."""
    known = _state_lines(page)
    while True:
        await anyio.sleep(CALM_POLL_S)
        try:
            page = await api.get("/v1/pools", PoolPage)
        except Unreachable:
            continue  # a daemon that died is told by its own watcher
        lines = _state_lines(page)
        for line in sorted(lines - known):
            if output.json_mode:
                output.emit({"event": "state", "message": line})
            else:
                output.note(line)
        known = lines


def _state_lines(page: PoolPage) -> set[str]:
    """One line per replica: its state, and why where it does not serve."""
    errors = dict(line.split(": ", 1) for line in error_lines(page.items))
    return {
        f"{replica.replica_id}: {state_words(replica)}"
        + (f": {errors[replica.replica_id]}" if replica.replica_id in errors else "")
        for pool in page.items
        for replica in pool.replicas
    }


def _ready_facts(url: str, settings: Settings, page: PoolPage) -> dict[str, object]:
    return {
        "event": "ready",
        "url": url,
        "pid": os.getpid(),
        "token_file": None if token_path(settings) is None else str(token_path(settings)),
        "models": sorted({pool.model_id for pool in page.items if pool.ready}),
    }
