"""`cancel` and `queue`: tasks by id, and tasks that wait or run."""

from __future__ import annotations

import anyio

from contracts.tasks import TaskPage, TaskView
from llama_orch.api import Api
from llama_orch.connection import Connection, discover
from llama_orch.options import ConfigFile, Json, TaskId, TokenFile, Url, checked_task_id
from llama_orch.output import Output, printable
from llama_orch.paging import listed
from llama_orch.tables import of_rows
from llama_orch.waiting import about


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
    """List the tasks that run and those that wait, next first, with their predicted start."""
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
        running = await tasks_listed(api, state="running")
        queued = await tasks_listed(api, state="queued")
    queued.sort(key=lambda view: (view.pool_id, view.queue_position or 0, view.created_ms))
    if output.json_mode:
        output.emit({"items": [view.model_dump(mode="json") for view in running + queued]})
    elif not running and not queued:
        output.note("nothing runs, nothing waits")
    else:
        output.show(of_rows([_row(view) for view in running + queued]))
    return 0


async def tasks_listed(api: Api, **params: str) -> list[TaskView]:
    """The newest tasks for which `params` hold."""
    return await listed(lambda query: api.get("/v1/tasks", TaskPage, query), **params)


def _row(view: TaskView) -> dict[str, str]:
    starts = view.predicted_start_ms
    return {
        "TASK": view.task_id,
        "STATE": view.state.value,
        "POSITION": "" if view.queue_position is None else str(view.queue_position),
        "STARTS IN": "" if starts is None else about(starts),
        "PRIORITY": view.priority.value,
        "POOL": view.pool_id,
        "MODEL": printable(view.model or ""),
    }
