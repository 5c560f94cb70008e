"""A row as its client reads it, in every state of its life."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.errors import ErrorCode
from contracts.tasks import TaskState
from orchestratord.http.task_view import task_view
from orchestratord.runtime.task_history import RecordedTask
from orchestratord.stores.database import open_database
from orchestratord.stores.tasks import TaskStore
from orchestratord.tests.stores.rows import id_of, new_task, outcome, started

pytestmark = pytest.mark.anyio

STEPS = ("queued", "running", "succeeded", "canceled")


async def recorded(path: Path, state: str, queue_position: int | None = None) -> RecordedTask:
    """A task that has come as far as `state`."""
    async with open_database(path / "orchestratord.sqlite") as database:
        store = TaskStore(database)
        await store.insert(new_task(1, metadata={"k": "v"}, priority="batch"))
        if state != "queued":
            await store.start(started(1))
        if state in ("succeeded", "canceled"):
            await store.finish(id_of(1), outcome(TaskState(state)))
        row = await store.get(id_of(1))
        assert row is not None
        return RecordedTask(row, queue_position, 1_500 if queue_position else None)


@pytest.mark.parametrize("state", STEPS)
async def test_a_view_tells_what_is_known_and_null_for_the_rest(tmp_path: Path, state: str) -> None:
    view = task_view(await recorded(tmp_path, state, queue_position=4))
    ended = state in ("succeeded", "canceled")
    assert view.state == state
    assert view.queue_position == (4 if state == "queued" else None)
    assert view.predicted_start_ms == (1_500 if state == "queued" else None)
    assert view.attempt == (0 if state == "queued" else 1)
    assert (view.placement is None) == (state == "queued")
    assert (view.usage is not None) == (view.finished_ms is not None) == ended
    assert view.text == ("a b" if ended else None)
    assert (view.error is not None) == (state == "canceled")
    assert (view.priority, view.metadata, view.seed) == ("batch", {"k": "v"}, 7)
    assert view.stream_url == f"/v1/tasks/{id_of(1)}/stream"


async def test_an_error_says_whether_it_is_worth_another_try(tmp_path: Path) -> None:
    view = task_view(await recorded(tmp_path, "canceled"))
    assert view.error is not None
    assert (view.error.code, view.error.retriable) == (ErrorCode.CANCELED, False)
