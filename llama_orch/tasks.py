"""`cancel` and `queue`: tasks by id, and tasks that wait or run."""

from __future__ import annotations

import anyio
from rich.table import Table

from contracts.tasks import TaskPage, TaskView
from llama_orch.api import Api
from llama_orch.connection import Connection, discover
from llama_orch.options import ConfigFile, Json, TaskId, TokenFile, Url, checked_task_id
from llama_orch.output import Output, duration, printable

PAGE = 100
LISTED_MAX = 1000


def cancel(
    task: TaskId,
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """Cancel a task, queued or running; a finished one is left as it is."""
    task = checked_task_id(task)
    return anyio.run(_cancel, discover(url, token_file, config), Output(json_mode=json_mode), task)


def queue(
    json_mode: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: ConfigFile = None,
) -> int:
    """List the tasks that run and those that wait, next first."""
    return anyio.run(_queue, discover(url, token_file, config), Output(json_mode=json_mode))


async def _cancel(connection: Connection, output: Output, task_id: str) -> int:
    async with Api(connection) as api:
        await api.post(f"/v1/tasks/{task_id}/cancel")
    if output.json_mode:
        output.emit({"task_id": task_id, "canceled": True})
    else:
        output.note(f"task {task_id} will not go on")
    return 0


async def _queue(connection: Connection, output: Output) -> int:
    async with Api(connection) as api:
        running = await _in_state(api, "running")
        queued = await _in_state(api, "queued")
    queued.sort(key=lambda view: (view.pool_id, view.queue_position or 0, view.created_ms))
    if output.json_mode:
        output.emit({"items": [view.model_dump(mode="json") for view in running + queued]})
    elif not running and not queued:
        output.note("nothing runs, nothing waits")
    else:
        output.show(_table(running + queued))
    return 0


async def _in_state(api: Api, state: str) -> list[TaskView]:
    """The newest `LISTED_MAX` tasks in `state`."""
    found: list[TaskView] = []
    params = {"state": state, "limit": str(PAGE)}
    while len(found) < LISTED_MAX:
        page = await api.get("/v1/tasks", TaskPage, params)
        found.extend(page.items)
        if page.next_cursor is None:
            break
        params["cursor"] = page.next_cursor
    return found


def _table(views: list[TaskView]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("TASK", "STATE", "POSITION", "PRIORITY", "POOL", "MODEL", "STARTS IN"):
        table.add_column(heading, no_wrap=True, overflow="ignore")
    for view in views:
        position = "" if view.queue_position is None else str(view.queue_position)
        starts = "" if view.predicted_start_ms is None else duration(view.predicted_start_ms)
        table.add_row(
            view.task_id,
            view.state.value,
            position,
            view.priority.value,
            view.pool_id,
            printable(view.model or ""),
            starts,
        )
    return table
