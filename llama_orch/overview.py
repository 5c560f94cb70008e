"""`status` and `ps`: how it goes, at a glance."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from contracts.capabilities import PoolPage, PoolStatus
from contracts.pools import DeviceView, LastError, ReloadState, ReplicaState, ReplicaView
from contracts.tasks import TaskView
from llama_orch.api import Api
from llama_orch.connection import Connection, discover
from llama_orch.failures import Refused
from llama_orch.options import ConfigFile, Json, TokenFile, Url, checked_task_id
from llama_orch.output import Output, duration, gibibytes, printable
from llama_orch.preparing import Speeds, bars, downloads, state_words
from llama_orch.results import result_of
from llama_orch.tables import headed, of_facts
from llama_orch.waiting import about

SPEED_SAMPLE_S = 0.5
_STYLE = {ReplicaState.READY: "green", ReplicaState.FAILED: "red", ReplicaState.UNHEALTHY: "red"}


def status(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="A task; without it, everything.")
    ] = None,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Show one task, or both daemons, their pools and what they hold."""
    output = Output(json_mode=json_mode)
    task = None if task is None else checked_task_id(task)
    connection = discover(url, token_file, config)
    if task is None:
        return anyio.run(_status, connection, output)
    return anyio.run(_task_status, connection, output, task)


def ps(
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """List pools, their replicas, and the GPUs they run on."""
    return anyio.run(_ps, discover(url, token_file, config), Output(json_mode=json_mode))


async def _status(connection: Connection, output: Output) -> int:
    async with Api(connection) as api:
        accepting = await accepts_work(api)
        page = await api.get("/v1/pools", PoolPage)
    if output.json_mode:
        output.emit(
            {
                "url": connection.url,
                "orchestratord": "ready" if accepting is None else accepting,
                "pool_managerd": page.pool_manager,
                "pools": [pool.model_dump(mode="json") for pool in page.items],
            }
        )
        return 0
    output.show(Text(f"orchestratord  {accepting or 'ready'}  {connection.url}"))
    output.show(Text(f"pool_managerd  {_manager_words(page)}"))
    output.show(Text(""))
    output.show(pool_table(page.items))
    return 0


async def accepts_work(api: Api) -> str | None:
    """None where orchestratord would accept a task, else why it would not."""
    try:
        await api.probe("/readyz")
    except Refused as refusal:
        if refusal.status != 503:
            raise
        return printable(refusal.message)
    return None


async def _task_status(connection: Connection, output: Output, task_id: str) -> int:
    async with Api(connection) as api:
        view = await api.get(f"/v1/tasks/{task_id}", TaskView)
    if output.json_mode:
        output.emit(view.model_dump(mode="json"))
    else:
        output.show(_task_table(view))
        if view.text is not None:
            output.write(f"\n{view.text}\n")
        if view.result is not None:
            shown = result_of(view.result.model_dump(mode="json"))
            if shown is not None:
                output.show(shown)
    return 0


async def _ps(connection: Connection, output: Output) -> int:
    async with Api(connection) as api:
        page = await api.get("/v1/pools", PoolPage)
        speeds = Speeds()
        speeds.observe(page)
        if downloads(page) and not output.json_mode:
            # A speed takes two looks.
            await anyio.sleep(SPEED_SAMPLE_S)
            page = await api.get("/v1/pools", PoolPage)
            speeds.observe(page)
    if output.json_mode:
        output.emit(page.model_dump(mode="json"))
        return 0
    if page.pool_manager == "away":
        output.note(f"pool_managerd is {_manager_words(page)}", style="yellow")
    output.show(Group(pool_table(page.items), Text(""), replica_table(page)))
    on_the_way = bars(page, speeds)
    if on_the_way is not None:
        output.show(Group(Text(""), on_the_way))
    for line in error_lines(page.items):
        output.note(line, style="red")
    if page.devices:
        output.show(Group(Text(""), _device_table(page.devices)))
    return 0


def pool_table(pools: tuple[PoolStatus, ...]) -> Table:
    """One row per pool."""
    table = headed("POOL", "MODEL", "ENGINE", "STATE", "QUEUED", "RUNNING", "RESTARTS")
    for pool in pools:
        state = "draining" if pool.draining else "ready" if pool.ready else "not ready"
        if pool.reload is not None and pool.reload.state is ReloadState.RUNNING:
            state = "reloading"
        if pool.breaker == "open":
            state = "failed"
        table.add_row(
            pool.pool_id,
            printable(pool.model_id),
            pool.engine,
            Text(state, style="green" if state == "ready" else "yellow"),
            str(pool.queue_depth),
            str(pool.running),
            str(pool.restarts),
        )
    return table


def replica_table(page: PoolPage) -> Table:
    """One row per replica, its state in plain words."""
    names = {device.uuid: f"GPU {device.index}" for device in page.devices}
    table = headed("REPLICA", "STATE", "SLOTS", "ON", "PID", "VERSION")
    for pool in page.items:
        for replica in pool.replicas:
            table.add_row(
                replica.replica_id,
                Text(state_words(replica), style=_STYLE.get(replica.state, "yellow")),
                f"{replica.slots_used}/{replica.slots_total}",
                ", ".join(names.get(uuid, printable(uuid)) for uuid in replica.devices)
                or ("" if replica.pid is None else "CPU"),  # no process of ours: nobody knows
                "" if replica.pid is None else str(replica.pid),
                printable(replica.engine_version or ""),
            )
    return table


def error_lines(pools: tuple[PoolStatus, ...]) -> list[str]:
    """Why each replica that does not serve does not, one line each."""
    return [
        f"{replica.replica_id}: {error_words(replica.last_error)}"
        for pool in pools
        for replica in pool.replicas
        if replica.last_error is not None and not _serves(replica)
    ]


def error_words(error: LastError) -> str:
    """A failure as one sentence."""
    return f"{error.message} ({error.reason.value})"


def _serves(replica: ReplicaView) -> bool:
    return replica.state in (ReplicaState.READY, ReplicaState.DRAINING)


def _manager_words(page: PoolPage) -> str:
    if page.pool_manager == "connected":
        return "connected"
    return "away: what follows is what it said last; running streams go on, new tasks wait"


def _device_table(devices: tuple[DeviceView, ...]) -> Table:
    table = headed("GPU", "NAME", "VRAM USED", "OF GiB", "BUSY", "°C", "W", "HEALTH")
    for device in devices:
        busy = "–" if device.utilization is None else f"{device.utilization:.0%}"
        table.add_row(
            str(device.index),
            printable(device.name),
            gibibytes(device.used_bytes),
            gibibytes(device.total_bytes),
            busy,
            "–" if device.temperature_c is None else f"{device.temperature_c:.0f}",
            "–" if device.power_w is None else f"{device.power_w:.0f}",
            printable(device.health),
        )
    return table


def _task_table(view: TaskView) -> Table:
    table = of_facts()
    table.add_row("task", view.task_id)
    if view.session_id is not None:
        table.add_row("session", view.session_id)
    table.add_row(
        "state", view.state.value + (f" ({view.finish_reason})" * bool(view.finish_reason))
    )
    if view.queue_position is not None:
        table.add_row("ahead of it", str(view.queue_position))
    if view.predicted_start_ms is not None:
        table.add_row("starts in", about(view.predicted_start_ms))
    table.add_row("model", printable(view.model or ""))
    table.add_row("pool", view.pool_id)
    if view.sampler_profile_version is not None:
        table.add_row("profile", view.sampler_profile_version)
    if view.placement is not None:
        table.add_row("replica", f"{view.placement.replica_id}, attempt {view.attempt}")
    if view.usage is not None:
        usage = view.usage
        table.add_row("tokens", f"{usage.tokens_in} in, {usage.tokens_out} out")
        table.add_row("queued", duration(usage.queue_ms))
        table.add_row("first token", duration(usage.first_token_ms))
        table.add_row("decode", duration(usage.decode_ms))
    if view.error is not None:
        table.add_row("error", printable(f"{view.error.code}: {view.error.message}"))
    return table
