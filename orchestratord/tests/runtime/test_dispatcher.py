"""Tasks from acceptance to end, over a real database and an engine that is told."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import anyio
import pytest

from contracts.errors import ErrorCode, Refusal
from contracts.tasks import Priority, TaskState
from orchestratord.errors import ModelUnknown, QueueFull, ShuttingDown, StorageBusy, TaskConflict
from orchestratord.runtime.admissions import Accepted
from orchestratord.tests.builders import TASK_ID, replica
from orchestratord.tests.runtime.world import END, World, world_at
from orchestratord.tests.stores.rows import id_of
from worker_adapters.base import Token
from worker_adapters.scripted import Fault, Step

pytestmark = pytest.mark.anyio


async def rows_in(world: World) -> int:
    found: int = await world.database.read(
        lambda c: c.execute("SELECT count(*) FROM tasks").fetchone()[0]
    )
    return found


async def test_a_task_is_accepted_run_streamed_and_written_down(world: World) -> None:
    """LO-ORC-001, LO-ORC-060, LO-ORC-062, LO-ORC-091."""
    accepted = await world.submit(seed=7)
    assert (accepted.state, accepted.queue_position) == (TaskState.QUEUED, 0)
    frames = await world.frames(accepted)
    assert [frame.name for frame in frames] == ["started", "token", "token", "end"]
    assert [frame.id for frame in frames] == [1, 2, 3, 4]
    assert frames[0].data == {
        "queue_position": 0,
        "predicted_start_ms": None,
        "attempt": 1,
        "pool_id": "chat",
        "replica_id": "chat/0",
        "engine": "llamacpp",
        "engine_version": "b100",
        "model_digest": "sha256:" + "0" * 64,
        "seed": 7,
    }
    assert (frames[-1].data["tokens_in"], frames[-1].data["tokens_out"]) == (3, 2)
    row = await world.row(accepted)
    assert (row["state"], row["text"], row["finish_reason"]) == ("succeeded", "hello", "stop")
    assert row["last_event_id"] == 4
    assert row["readable"] == row["attempt"] == 1


async def test_an_engine_is_sent_an_allow_list_of_fields(world: World) -> None:
    """LO-ORC-046."""
    accepted = await world.submit(seed=7, top_k=5, stop=["x"], kv_hint="cold", metadata={"a": "b"})
    await world.frames(accepted)
    (client,) = world.engines.clients
    (sent,) = client.requests
    assert (sent.prompt, sent.max_tokens, sent.seed, sent.top_k) == ("once", 8, 7, 5)
    assert (sent.stop, sent.cache_prompt, sent.slot) == (("x",), False, 0)


async def test_a_seed_is_chosen_once_and_told(world: World) -> None:
    """LO-ORC-015."""
    frames = await world.frames(accepted := await world.submit())
    seed = frames[0].data["seed"]
    assert 0 <= seed <= 2**32 - 2
    assert (await world.row(accepted))["seed"] == seed
    assert world.engines.clients[0].requests[0].seed == seed


async def test_the_outcome_is_on_disk_before_its_event_can_be_read(world: World) -> None:
    """LO-ORC-091."""
    accepted = await world.submit()
    async for batch in world.log(accepted).follow(0):
        if b"event: end" in batch:
            with sqlite3.connect(world.path) as other:
                assert other.execute("SELECT state, text FROM tasks").fetchone() == (
                    "succeeded",
                    "hello",
                )
            other.close()


async def test_the_mark_that_a_token_was_readable_is_on_disk_before_the_token(world: World) -> None:
    """LO-ORC-041: and no event of the attempt passes the id it reserves."""
    world.play([Token("a"), Fault.SILENT])
    accepted = await world.submit()
    await world.until(accepted, "token")
    row = await world.row(accepted)
    assert (row["state"], row["readable"]) == ("running", 1)
    assert row["last_event_id"] > 8


async def test_fifty_posts_of_one_id_at_once_make_one_task(world: World) -> None:
    """LO-ORC-002, LO-ORC-004."""
    answers = []

    async def post() -> None:
        answers.append(await world.submit(TASK_ID))

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(post)
    assert {answer.task_id for answer in answers} == {TASK_ID}
    assert len(answers) == 50
    assert await rows_in(world) == 1
    frames = await world.frames(TASK_ID)
    assert len(frames) == 4
    assert len(world.engines.clients) == 1
    assert (await world.submit(TASK_ID)).state is TaskState.SUCCEEDED


async def test_an_id_with_another_body_is_a_conflict(world: World) -> None:
    """LO-ORC-003."""
    await world.submit(TASK_ID)
    with pytest.raises(TaskConflict):
        await world.submit(TASK_ID, seed=1)
    await world.frames(TASK_ID)
    with pytest.raises(TaskConflict):
        await world.submit(TASK_ID, priority="interactive")
    assert await rows_in(world) == 1


async def test_a_known_id_is_found_before_anything_else_is_checked(world: World) -> None:
    """LO-ORC-005."""
    await world.submit(TASK_ID)
    await world.frames(TASK_ID)
    world.dispatcher.draining = True
    assert (await world.submit(TASK_ID)).state is TaskState.SUCCEEDED
    with pytest.raises(ShuttingDown):
        await world.submit()


async def test_a_refused_task_leaves_nothing(path: Path) -> None:
    """LO-ORC-006, LO-ORC-021."""
    async with world_at(path, capacity=1, slots=0) as world:
        with pytest.raises(ModelUnknown):
            await world.submit(id_of(1), model="other")
        await world.submit(id_of(2))
        with pytest.raises(QueueFull):
            await world.submit(id_of(3))
        assert await rows_in(world) == 1
        assert [world.shelf.get(id_of(n)) for n in (1, 3)] == [None, None]
        world.serve(replica())
        await world.frames(id_of(2))
        world.serve()
        with pytest.raises(Refusal) as refused:
            await world.submit(id_of(3))
        assert refused.value.code is ErrorCode.POOL_UNREADY


async def test_a_refused_id_can_be_sent_again(path: Path) -> None:
    async with world_at(path, capacity=1, slots=0) as world:
        await world.submit(id_of(1))
        with pytest.raises(QueueFull):
            await world.submit(id_of(2))
        await world.dispatcher.cancel(id_of(1))
        assert (await world.submit(id_of(2))).queue_position == 0


async def test_capacity_counts_tasks_whose_commit_is_on_its_way(path: Path) -> None:
    """LO-ORC-020, LO-SYS-050: fifty at once never make more than the queue holds."""
    async with world_at(path, capacity=5, slots=0) as world:
        outcomes: list[Accepted | QueueFull] = []

        async def post() -> None:
            try:
                outcomes.append(await world.submit())
            except QueueFull as full:
                outcomes.append(full)

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(post)
        assert sum(not isinstance(o, QueueFull) for o in outcomes) == 5
        assert await rows_in(world) == 5


async def test_waiting_tasks_start_interactive_first_then_in_order(path: Path) -> None:
    """LO-ORC-022, LO-ORC-023, LO-ORC-024."""
    async with world_at(path, slots=0) as world:
        order = [
            await world.submit(prompt=f"{n}", priority=priority)
            for n, priority in enumerate(("batch", "interactive", "batch", "interactive"))
        ]
        assert [world.position(task.task_id) for task in order] == [2, 0, 3, 1]
        world.serve(replica())
        for task in order:
            await world.frames(task)
        prompts = [client.requests[0].prompt for client in world.engines.clients]
        assert prompts == ["1", "3", "0", "2"]


async def test_no_replica_holds_more_tasks_than_it_has_slots(path: Path) -> None:
    """LO-ORC-033, LO-ORC-048."""
    async with world_at(path, slots=2) as world:
        gate = asyncio.Event()
        held: list[Step] = [Token("a"), gate, END]
        world.play(*[held] * 5)
        tasks = [await world.submit() for _ in range(5)]
        await world.until(tasks[0], "token")
        await world.until(tasks[1], "token")
        await anyio.wait_all_tasks_blocked()
        assert len(world.leases.held) == world.scheduler.running("chat") == 2
        gate.set()
        for task in tasks:
            assert (await world.frames(task))[-1].name == "end"
        await anyio.wait_all_tasks_blocked()
        assert world.leases.held == {}
        assert world.scheduler.active("chat/0") == 0


async def test_a_locked_database_refuses_new_work_and_keeps_nothing(world: World) -> None:
    """LO-ORC-099."""
    with world.locked():
        with pytest.raises(StorageBusy):
            await world.submit(TASK_ID)
        assert world.shelf.get(TASK_ID) is None
    assert await rows_in(world) == 0
    assert world.scheduler.depth("chat", Priority.INTERACTIVE) == 0
    await world.submit(TASK_ID)
    assert (await world.frames(TASK_ID))[-1].name == "end"
