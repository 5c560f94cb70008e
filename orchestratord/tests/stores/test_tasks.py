"""Rows of tasks: every change is guarded, and the table guards itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contracts.tasks import TaskState
from orchestratord.stores import tasks as tasks_module
from orchestratord.stores.database import Database
from orchestratord.stores.tasks import LostRace, TaskStore
from orchestratord.tests.stores.rows import id_of, new_task, outcome, started

pytestmark = pytest.mark.anyio

T1 = id_of(1)


async def row_of(store: TaskStore, number: int = 1) -> dict[str, Any]:
    row = await store.get(id_of(number))
    assert row is not None
    return dict(row)


async def test_a_task_keeps_what_was_sent_and_nothing_more(store: TaskStore) -> None:
    await store.insert(new_task(1, deadline_ms=500))
    row = await row_of(store)
    assert json.loads(row["request"]) == {
        "model": "tiny",
        "prompt": "once",
        "max_tokens": 8,
        "deadline_ms": 500,
    }
    assert (row["state"], row["attempt"], row["deadline_ms"]) == ("queued", 0, 1_500)


async def test_the_life_of_a_task_is_written_step_by_step(store: TaskStore) -> None:
    await store.insert(new_task(1))
    await store.start(started(1))
    assert (await row_of(store))["state"] == "running"
    await store.requeue(T1, 1, 4)
    assert [(await row_of(store))[name] for name in ("state", "last_event_id")] == ["queued", 4]
    await store.start(started(1, attempt=2))
    await store.mark_readable(T1, 2, 900)
    await store.finish(T1, outcome())
    row = await row_of(store)
    assert (row["state"], row["attempt"], row["readable"], row["text"]) == (
        "succeeded",
        2,
        2,
        "a b",
    )


Change = Callable[[TaskStore], Awaitable[None]]
LOST: list[tuple[str, list[Change], Change]] = [
    ("start of nobody", [], lambda s: s.start(started(9))),
    ("start twice", [lambda s: s.start(started(1))], lambda s: s.start(started(1, 2))),
    (
        "start with an old attempt",
        [lambda s: s.start(started(1, 2)), lambda s: s.requeue(T1, 2, 1)],
        lambda s: s.start(started(1, 2)),
    ),
    ("readable while queued", [], lambda s: s.mark_readable(T1, 0, 9)),
    (
        "readable for another attempt",
        [lambda s: s.start(started(1, 2))],
        lambda s: s.mark_readable(T1, 1, 9),
    ),
    ("requeue while queued", [], lambda s: s.requeue(T1, 0, 1)),
    ("requeue of another attempt", [lambda s: s.start(started(1))], lambda s: s.requeue(T1, 2, 1)),
    (
        "requeue of what was read",
        [lambda s: s.start(started(1)), lambda s: s.mark_readable(T1, 1, 9)],
        lambda s: s.requeue(T1, 1, 1),
    ),
    (
        "finish twice",
        [lambda s: s.finish(T1, outcome(TaskState.CANCELED))],
        lambda s: s.finish(T1, outcome()),
    ),
    (
        "start of what ended",
        [lambda s: s.finish(T1, outcome(TaskState.CANCELED))],
        lambda s: s.start(started(1)),
    ),
]


@pytest.mark.parametrize(("before", "change"), [c[1:] for c in LOST], ids=[c[0] for c in LOST])
async def test_a_race_that_is_lost_is_told_and_changes_nothing(
    store: TaskStore, before: list[Change], change: Change
) -> None:
    await store.insert(new_task(1))
    for step in before:
        await step(store)
    as_it_was = await row_of(store)
    with pytest.raises(LostRace):
        await change(store)
    assert await row_of(store) == as_it_was


@pytest.mark.parametrize(
    "change",
    [
        "state = 'running'",
        "state = 'queued', finished_ms = NULL, error_code = NULL",
        "state = 'succeeded', error_code = NULL",
    ],
)
async def test_the_table_itself_keeps_an_ended_task_ended(
    database: Database, store: TaskStore, change: str
) -> None:
    """LO-ORC-090."""
    await store.insert(new_task(1))
    await store.finish(T1, outcome(TaskState.CANCELED))
    with pytest.raises(sqlite3.IntegrityError, match="a finished task cannot"):
        await database.write(lambda c: c.execute(f"UPDATE tasks SET {change}"))
    assert (await row_of(store))["state"] == "canceled"


@pytest.mark.parametrize(
    "change",
    [
        "state = 'lost'",
        "state = 'succeeded'",
        "finished_ms = 5",
        "state = 'failed', finished_ms = 5",
        "error_code = 'INTERNAL'",
        "state = 'succeeded', finished_ms = 5, error_code = 'INTERNAL'",
        "readable = 1",
        "priority = 'urgent'",
        "seed = 'seven'",
    ],
)
async def test_the_table_itself_refuses_what_cannot_be(
    database: Database, store: TaskStore, change: str
) -> None:
    await store.insert(new_task(1))
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(lambda c: c.execute(f"UPDATE tasks SET {change}"))
    assert (await row_of(store))["state"] == "queued"


async def test_an_id_or_a_sequence_number_is_given_once(store: TaskStore) -> None:
    await store.insert(new_task(1))
    with pytest.raises(sqlite3.IntegrityError):
        await store.insert(new_task(1))


async def test_unfinished_tasks_come_in_the_order_they_were_accepted(store: TaskStore) -> None:
    for number in (3, 1, 4, 2):
        await store.insert(new_task(number))
    await store.start(started(3))
    await store.finish(id_of(2), outcome(TaskState.CANCELED))
    assert [row["sequence"] for row in await store.unfinished()] == [1, 3, 4]


async def test_pages_meet_without_a_gap_or_a_double(store: TaskStore) -> None:
    for number in range(1, 8):
        await store.insert(new_task(number))
    await store.start(started(4))
    seen, before = [], None
    while rows := await store.page(None, before, 3):
        seen += [row["sequence"] for row in rows]
        before = seen[-1]
    assert seen == [7, 6, 5, 4, 3, 2, 1]
    assert [row["sequence"] for row in await store.page(TaskState.RUNNING, None, 9)] == [4]


LARGE = "x" * 200_000


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"prompt": LARGE}, {}),
        (
            {
                "workload": "chat",
                "prompt": None,
                "messages": [{"role": "user", "content": LARGE}],
            },
            {"workload": "chat"},
        ),
    ],
    ids=["prompt", "messages"],
)
async def test_a_page_leaves_out_prompts_and_answers(
    store: TaskStore, asked: dict[str, Any], told: dict[str, Any]
) -> None:
    await store.insert(new_task(1, metadata={"k": "v"}, **asked))
    await store.finish(T1, outcome())
    (row,) = await store.page(None, None, 9)
    assert row["text"] is None
    assert (
        json.loads(row["request"])
        == {
            "model": "tiny",
            "max_tokens": 8,
            "metadata": {"k": "v"},
        }
        | told
    )
    assert (await row_of(store))["text"] == "a b"


async def test_only_what_ended_before_is_deleted(store: TaskStore) -> None:
    for number in range(1, 5):
        await store.insert(new_task(number))
    await store.finish(id_of(1), outcome(finished_ms=1_999))
    await store.finish(id_of(2), outcome(finished_ms=2_000))
    await store.start(started(3))
    await store.delete_finished(2_000)
    assert await store.get(id_of(1)) is None
    assert {row["sequence"] for row in await store.page(None, None, 9)} == {2, 3, 4}


async def test_more_than_one_group_is_deleted(
    store: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "_DELETE_GROUP", 3)
    for number in range(1, 9):
        await store.insert(new_task(number))
    for number in range(1, 8):
        await store.finish(id_of(number), outcome())
    await store.delete_finished(2_001)
    assert [row["sequence"] for row in await store.page(None, None, 9)] == [8]


async def test_the_sequence_goes_on_from_the_highest_row(store: TaskStore) -> None:
    assert await store.last_sequence() == 0
    await store.insert(new_task(41))
    assert await store.last_sequence() == 41
