"""Orders of events that need bad luck, and figures that nobody would believe."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from contracts.errors import ErrorCode, Refusal
from contracts.ids import new_uuid
from contracts.sessions import SessionSettings
from orchestratord.domain.budgets import Limits
from orchestratord.domain.scheduler import EXPIRED_AT_ONCE
from orchestratord.domain.sessions import SessionTerms
from orchestratord.errors import SessionUnknown, StorageBusy
from orchestratord.runtime.housekeeping import TIME_STEP_MS
from orchestratord.stores.sessions import SessionHold
from orchestratord.stores.tasks import NewTask
from orchestratord.tests.builders import TASK_ID, replica
from orchestratord.tests.runtime.world import HandClock, World, error_of, world_at
from orchestratord.tests.stores.rows import id_of
from worker_adapters.base import Finished, Progress, Token
from worker_adapters.scripted import Fault

pytestmark = pytest.mark.anyio

SESSION = new_uuid()
WEEK_S = 7 * 24 * 3600


class HeldArrival:
    """Holds an insert up between its commit and its answer."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.committed, self.go_on = anyio.Event(), anyio.Event()
        insert = world.store.insert

        async def held(task: NewTask, session: SessionHold | None = None) -> None:
            await insert(task, session)
            self.committed.set()
            await self.go_on.wait()

        monkeypatch.setattr(world.store, "insert", held)


async def test_a_cancel_of_a_task_that_is_just_arriving_cancels_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-ORC-081, LO-ORC-083: its row can be read before it has its place in line."""
    async with world_at(path, slots=0) as world:
        held = HeldArrival(world, monkeypatch)
        async with anyio.create_task_group() as group:
            group.start_soon(world.submit, TASK_ID)
            await held.committed.wait()
            group.start_soon(world.dispatcher.cancel, TASK_ID)
            await anyio.wait_all_tasks_blocked()
            held.go_on.set()
        assert error_of(await world.frames(TASK_ID)) is ErrorCode.CANCELED
        assert (await world.row(TASK_ID))["state"] == "canceled"


async def test_a_task_that_is_just_arriving_has_a_log_to_follow(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-ORC-065."""
    async with world_at(path, slots=0) as world:
        held = HeldArrival(world, monkeypatch)
        async with anyio.create_task_group() as group:
            group.start_soon(world.submit, TASK_ID)
            await held.committed.wait()
            held.go_on.set()
            assert await world.dispatcher.find_arrived(TASK_ID) is not None
            assert world.shelf.get(TASK_ID) is not None


async def test_terms_that_could_not_be_written_are_not_in_force(path: Path) -> None:
    """LO-ORC-145."""
    async with world_at(path) as world:
        await world.sessions.put(SESSION, SessionSettings(budget_tokens=100))
        other = new_uuid()
        with world.locked():
            for session_id in (SESSION, other):
                with pytest.raises(StorageBusy):
                    await world.sessions.put(session_id, SessionSettings(budget_tokens=5_000))
        assert world.sessions.get(SESSION).budgets.tokens.limit == 100
        with pytest.raises(SessionUnknown):
            world.sessions.get(other)
        await world.frames(await world.submit(session_id=SESSION, max_tokens=4))


async def test_terms_written_since_are_not_undone_by_a_refusal(path: Path) -> None:
    """LO-ORC-145."""
    async with world_at(path) as world:
        await world.sessions.put(SESSION, SessionSettings(budget_tokens=100))
        session = world.scheduler.sessions.find(SESSION, world.clock.now())
        assert session is not None
        stale = SessionTerms(1, 1, Limits())
        world.scheduler.sessions.revoke(session, stale, None)
        assert world.sessions.get(SESSION).budgets.tokens.limit == 100


async def test_more_time_that_the_disk_refuses_hurts_nobody(path: Path) -> None:
    """LO-ORC-100, LO-ORC-144: a limit that was lowered on disk first, say."""
    terms = SessionTerms(600_000, 8, Limits(time_ms=60_000))
    async with world_at(path, terms=terms) as world:
        world.play([Token("a"), Fault.SILENT])
        accepted = await world.submit(session_id=SESSION)
        await world.until(accepted, "token")
        await world.database.write(lambda c: c.execute("UPDATE sessions SET time_limit_ms = 1"))
        await world.pass_time(3 * TIME_STEP_MS / 1000)
        await anyio.wait_all_tasks_blocked()
        await world.dispatcher.cancel(accepted.task_id)
        assert error_of(await world.frames(accepted)) is ErrorCode.CANCELED
        rows = await world.database.read(lambda c: c.execute("SELECT * FROM sessions").fetchall())
        assert (rows[0]["time_reserved_ms"], rows[0]["time_spent_ms"]) == (0, 3 * TIME_STEP_MS)


async def test_more_time_for_a_task_that_has_ended_is_held_for_nobody(path: Path) -> None:
    """LO-ORC-124."""
    async with world_at(path) as world:
        accepted = await world.submit(session_id=SESSION)
        await world.frames(accepted)
        await world.store.extend_time(accepted.task_id, SESSION, TIME_STEP_MS)
        rows = await world.database.read(lambda c: c.execute("SELECT * FROM sessions").fetchall())
        assert rows[0]["time_reserved_ms"] == 0


async def test_a_task_that_waited_for_weeks_can_end(path: Path) -> None:
    """LO-ORC-092: the machine was off over the holidays."""
    clock = HandClock()
    async with world_at(path, clock=clock, slots=0) as world:
        await world.submit(TASK_ID)
    clock.advance(2 * WEEK_S)
    async with world_at(path, clock=clock, recover=True) as world:
        frames = await world.frames(TASK_ID)
        assert frames[-1].data["queue_ms"] == 2 * WEEK_S * 1000


async def test_an_engine_cannot_bill_what_nobody_asked_for(path: Path) -> None:
    """LO-ORC-124, LO-ORC-140."""
    terms = SessionTerms(600_000, 8, Limits(tokens=100_000))
    async with world_at(path, terms=terms) as world:
        world.play(
            [
                Progress(2**31 - 1, 2**31 - 1, 1),
                Token("a"),
                Finished("stop", 2**31 - 1, 10_000_000, 2**31 - 1),
            ]
        )
        end = (await world.frames(await world.submit(session_id=SESSION, max_tokens=4)))[-1].data
        assert (end["tokens_in"], end["tokens_out"]) == (1_000_000, 4)
        assert world.sessions.get(SESSION).budgets.tokens.spent == 5, "what was held"


async def test_a_cache_is_lost_when_another_task_takes_its_slot(path: Path) -> None:
    """LO-ORC-147: and not only once that task has ended."""
    async with world_at(path) as world:
        world.play([Token("a"), Finished("stop", 10, 1, 9)], [Token("b"), Fault.SILENT])
        await world.frames(await world.submit(session_id=SESSION))
        await anyio.wait_all_tasks_blocked()
        assert world.sessions.get(SESSION).kv_warmth == 0.9
        other = await world.submit()
        await world.until(other, "token")
        assert world.sessions.get(SESSION).kv_warmth == 0
        await world.dispatcher.cancel(other.task_id)
        await anyio.wait_all_tasks_blocked()
        rows = await world.database.read(lambda c: c.execute("SELECT * FROM sessions").fetchall())
        assert rows[0]["replica_id"] is None


async def test_a_session_forgets_a_replica_that_was_started_again(path: Path) -> None:
    """LO-ORC-127, LO-ORC-147: the next task goes where there is most room."""
    async with world_at(path, slots=0) as world:
        first, second = (replica(n).model_copy(update={"pid": 7}) for n in (0, 1))
        world.serve(first, second)
        await world.frames(await world.submit(session_id=SESSION))
        await anyio.wait_all_tasks_blocked()
        world.serve(first.model_copy(update={"pid": 8}), second)
        session = world.scheduler.sessions.find(SESSION, world.clock.now())
        assert session is not None
        assert session.place is None


async def test_deleting_a_session_with_many_tasks_cancels_them_all(path: Path) -> None:
    """LO-ORC-126."""
    terms = SessionTerms(600_000, 10_000, Limits())
    async with world_at(path, slots=0, capacity=1_000, terms=terms) as world:
        ids = [id_of(number) for number in range(600)]
        for task_id in ids:
            await world.submit(task_id, session_id=SESSION)
        await world.sessions.delete(SESSION)
        states = {(await world.row(task_id))["state"] for task_id in ids}
        assert states == {"canceled"}


async def test_a_prediction_beyond_a_week_is_told_as_a_week(path: Path) -> None:
    """LO-ORC-142."""
    async with world_at(path, capacity=1) as world:
        world.play([Token("a"), gate := asyncio.Event(), Token("b"), Finished("stop", 1, 2, 0)])
        slow = await world.submit(max_tokens=2)
        await world.until(slow, "token")
        world.clock.advance(WEEK_S / 100)
        gate.set()
        await world.frames(slow)
        await anyio.wait_all_tasks_blocked()
        world.play([Fault.SILENT])
        await world.submit(max_tokens=900_000)
        accepted = await world.submit(max_tokens=900_000)
        assert accepted.backoff_ms == accepted.predicted_start_ms == WEEK_S * 1000
        with pytest.raises(Refusal) as refused:
            await world.submit()
        assert refused.value.retry_after_ms == WEEK_S * 1000


async def test_hundreds_of_deadlines_that_pass_at_once_end_a_few_at_a_time(path: Path) -> None:
    """LO-ORC-025."""
    count = 2 * EXPIRED_AT_ONCE + 5
    async with world_at(path, slots=0, capacity=count) as world:
        ids = [id_of(number) for number in range(count)]
        for task_id in ids:
            await world.submit(task_id, deadline_ms=1_000)
        world.clock.advance(1)
        world.dispatcher.pump()
        assert world.scheduler.waiting("chat") == count - EXPIRED_AT_ONCE
        for task_id in ids:
            assert error_of(await world.frames(task_id)) is ErrorCode.DEADLINE_UNMET
