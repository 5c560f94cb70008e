"""Sessions: turns, budgets to the unit, the warm slot, their end, and all of it over a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from contracts.errors import ErrorCode, Refusal
from contracts.ids import new_uuid
from contracts.sessions import SessionSettings
from orchestratord.domain.budgets import Limits
from orchestratord.domain.sessions import SessionTerms
from orchestratord.errors import SessionUnknown, StorageBusy
from orchestratord.runtime.housekeeping import TIME_STEP_MS
from orchestratord.tests.builders import replica
from orchestratord.tests.runtime.world import NO_LIMITS, HandClock, World, error_of, world_at
from orchestratord.tests.stores.rows import id_of
from worker_adapters.base import Finished, Progress, Token
from worker_adapters.scripted import Fault, Step

pytestmark = pytest.mark.anyio

SESSION = new_uuid()
TEN_TOKENS = SessionTerms(600_000, 100, Limits(tokens=10))
"""The prompt of a test is one word, so one token; `max_tokens` 4 makes 5 a task."""


def answer(tokens_out: int, tokens_in: int = 1, cached: int = 0) -> list[Token | Finished]:
    return [Token("a")] * tokens_out + [Finished("stop", tokens_in, tokens_out, cached)]


def tokens_of(world: World) -> tuple[int, int, int | None]:
    """Reserved, spent and remaining."""
    budget = world.sessions.get(SESSION).budgets.tokens
    return budget.reserved, budget.spent, budget.remaining


async def row_of_session(world: World) -> dict[str, object]:
    (row,) = await world.database.read(lambda c: c.execute("SELECT * FROM sessions").fetchall())
    return dict(row)


async def test_a_session_begins_with_its_first_task_and_counts_turns(path: Path) -> None:
    """LO-ORC-143."""
    async with world_at(path, terms=SessionTerms(600_000, 2, Limits())) as world:
        with pytest.raises(SessionUnknown):
            world.sessions.get(SESSION)
        for _ in range(2):
            await world.frames(await world.submit(session_id=SESSION))
        with pytest.raises(Refusal) as refused:
            await world.submit(session_id=SESSION)
        assert refused.value.code is ErrorCode.SESSION_TURNS_EXHAUSTED
        view = world.sessions.get(SESSION)
        assert (view.turns, view.max_turns, view.active) == (2, 2, 0)


async def test_a_budget_is_held_at_admission_and_charged_what_was_used(path: Path) -> None:
    """LO-ORC-123, LO-ORC-124."""
    async with world_at(path, terms=TEN_TOKENS) as world:
        world.play(answer(3))
        gate = asyncio.Event()
        world.play([gate, *answer(2)])
        first = await world.submit(session_id=SESSION, max_tokens=4)
        assert tokens_of(world) == (5, 0, 5)
        assert first.budgets is not None
        assert first.budgets.tokens.remaining == 5
        end = (await world.frames(first))[-1]
        assert end.data["budgets"]["tokens"] == {
            "limit": 10,
            "reserved": 0,
            "spent": 4,
            "remaining": 6,
        }
        second = await world.submit(session_id=SESSION, max_tokens=5)
        assert tokens_of(world) == (6, 4, 0)
        with pytest.raises(Refusal) as refused:
            await world.submit(session_id=SESSION, max_tokens=1)
        assert refused.value.code is ErrorCode.BUDGET_EXHAUSTED
        assert refused.value.details == {"budget": "tokens", "wanted": 2, "remaining": 0}
        gate.set()
        await world.frames(second)
        assert tokens_of(world) == (0, 7, 3)
        row = await row_of_session(world)
        assert (row["tokens_reserved"], row["tokens_spent"], row["turns"]) == (0, 7, 2)


async def test_many_posts_at_once_never_overspend(path: Path) -> None:
    """LO-ORC-123."""
    terms = SessionTerms(600_000, 1_000, Limits(tokens=100))
    async with world_at(path, terms=terms, slots=0) as world:
        codes: list[str] = []

        async def post() -> None:
            try:
                # Nobody can count it, so the bound of its four bytes is held: 6 + 4 tokens.
                await world.submit(session_id=SESSION, max_tokens=4)
                codes.append("accepted")
            except Refusal as refused:
                codes.append(refused.code)

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(post)
        assert sorted(codes) == ["BUDGET_EXHAUSTED"] * 90 + ["accepted"] * 10
        assert tokens_of(world) == (100, 0, 0)


@pytest.mark.parametrize("state", ["queued", "prefill", "decoding", "lost"])
async def test_what_was_not_used_is_given_back_exactly(path: Path, state: str) -> None:
    """LO-ORC-124: the charge is what GET tells of the task."""
    async with world_at(path, terms=TEN_TOKENS, slots=int(state != "queued")) as world:
        scripts: dict[str, Sequence[Step]] = {
            "queued": answer(1),
            "prefill": [Fault.SILENT],
            "decoding": [Progress(1, 0, 1), Token("a"), Token("b"), Fault.SILENT],
            "lost": [Progress(1, 0, 1), Token("a"), Fault.LOST],
        }
        world.play(scripts[state])
        accepted = await world.submit(session_id=SESSION, max_tokens=4)
        held = tokens_of(world)[0]
        await anyio.wait_all_tasks_blocked()
        if state != "lost":
            assert tokens_of(world)[0] == held
            await world.dispatcher.cancel(accepted.task_id)
        await world.frames(accepted)
        used = {"queued": 0, "prefill": 0, "decoding": 3, "lost": 2}[state]
        assert tokens_of(world) == (0, used, 10 - used)
        row = await world.row(accepted)
        assert (row["tokens_in"] or 0) + row["tokens_out"] == used


async def test_an_engine_that_reports_more_than_it_may_is_charged_no_more_than_was_held(
    path: Path,
) -> None:
    """LO-ORC-123."""
    async with world_at(path, terms=TEN_TOKENS) as world:
        world.play(answer(4, tokens_in=9_999))
        await world.frames(await world.submit(session_id=SESSION, max_tokens=4))
        assert tokens_of(world) == (0, 5, 5)


async def test_cost_is_that_of_the_tokens(path: Path) -> None:
    terms = SessionTerms(600_000, 8, Limits(cost=1_000_000_000))
    async with world_at(path, terms=terms, price=100.0) as world:
        world.play(answer(3))
        first = await world.submit(session_id=SESSION, max_tokens=4)
        assert first.budgets is not None
        assert first.budgets.cost.remaining == pytest.approx(0.5)
        await world.frames(first)
        cost = world.sessions.get(SESSION).budgets.cost
        assert (cost.limit, cost.reserved, cost.spent, cost.remaining) == (1.0, 0.0, 0.4, 0.6)


async def test_time_is_charged_from_start_to_end_and_held_longer_while_there_is_some(
    path: Path,
) -> None:
    """LO-ORC-123, LO-ORC-144."""
    limit = 2 * TIME_STEP_MS + 500
    async with world_at(path, terms=SessionTerms(600_000, 8, Limits(time_ms=limit))) as world:
        world.play([Token("a"), Fault.SILENT])
        accepted = await world.submit(session_id=SESSION)
        await world.until(accepted, "token")
        held = [world.sessions.get(SESSION).budgets.time_ms.reserved]
        for _ in range(40):
            await world.pass_time(0.1)
            held.append(world.sessions.get(SESSION).budgets.time_ms.reserved)
            if world.log(accepted).sealed:
                break
        frames = await world.frames(accepted)
        assert error_of(frames) is ErrorCode.BUDGET_EXHAUSTED
        assert sorted(set(held))[-3:] == [TIME_STEP_MS, 2 * TIME_STEP_MS, limit]
        spent = world.sessions.get(SESSION).budgets.time_ms
        assert (spent.reserved, spent.spent, spent.remaining) == (0, limit, 0)
        row = await row_of_session(world)
        assert (row["time_reserved_ms"], row["time_spent_ms"]) == (0, limit)


async def test_a_session_ends_its_ttl_after_its_last_task(path: Path) -> None:
    """LO-ORC-125."""
    async with world_at(path, terms=SessionTerms(10_000, 8, Limits())) as world:
        gate = asyncio.Event()
        world.play([Token("a"), gate, *answer(0)])
        accepted = await world.submit(session_id=SESSION)
        await world.pass_time(20)
        assert world.sessions.get(SESSION).ttl_ms_remaining == 10_000
        gate.set()
        await world.frames(accepted)
        await world.pass_time(9.999)
        assert world.sessions.get(SESSION).ttl_ms_remaining == 1
        await world.pass_time(0.001)
        with pytest.raises(SessionUnknown):
            world.sessions.get(SESSION)
        await world.housekeeping.sweep()
        rows = await world.database.read(
            lambda c: c.execute("SELECT count(*) FROM sessions").fetchone()
        )
        assert rows[0] == 0


async def test_a_deleted_session_is_gone_and_what_it_spent_is_not(path: Path) -> None:
    """LO-ORC-126."""
    async with world_at(path, terms=TEN_TOKENS) as world:
        world.play([Token("a"), gate := asyncio.Event(), *answer(1)])
        running = await world.submit(id_of(1), session_id=SESSION, max_tokens=4)
        await world.until(running, "token")
        queued = await world.submit(id_of(2), session_id=SESSION, max_tokens=4)
        await world.sessions.delete(SESSION)
        frames = await world.frames(queued)
        assert error_of(frames) is ErrorCode.CANCELED
        assert "session" in frames[-1].data["message"]
        with pytest.raises(SessionUnknown):
            world.sessions.get(SESSION)
        assert world.sessions.page(None, 9).items == []
        gate.set()
        assert (await world.frames(running))[-1].name == "end"
        await world.sessions.delete(SESSION)
        with pytest.raises(Refusal) as refused:
            await world.submit(session_id=SESSION, max_tokens=8)
        assert refused.value.details == {"budget": "tokens", "wanted": 9, "remaining": 8}
        await world.submit(session_id=SESSION, max_tokens=4)
        view = world.sessions.get(SESSION)
        assert (view.turns, view.budgets.tokens.spent) == (1, 2)


async def test_terms_can_be_changed_and_what_was_spent_stays(path: Path) -> None:
    """LO-ORC-145."""
    async with world_at(path, terms=TEN_TOKENS) as world:
        await world.sessions.put(SESSION, SessionSettings(budget_tokens=6, max_turns=3))
        world.play(answer(3))
        await world.frames(await world.submit(session_id=SESSION, max_tokens=4))
        assert tokens_of(world) == (0, 4, 2)
        view = await world.sessions.put(SESSION, SessionSettings(budget_tokens=2))
        assert (view.budgets.tokens.remaining, view.turns, view.max_turns) == (0, 1, 100)
        with pytest.raises(Refusal):
            await world.submit(session_id=SESSION, max_tokens=1)
        view = await world.sessions.put(
            SESSION, SessionSettings.model_validate_json('{"budget_tokens": null}')
        )
        assert view.budgets.tokens.limit is None
        await world.frames(await world.submit(session_id=SESSION, max_tokens=100))


async def test_a_task_that_could_not_be_written_leaves_no_session_and_no_hold(path: Path) -> None:
    """LO-ORC-006."""
    async with world_at(path, terms=TEN_TOKENS) as world:
        with world.locked(), pytest.raises(StorageBusy):
            await world.submit(session_id=SESSION, max_tokens=4)
        with pytest.raises(SessionUnknown):
            world.sessions.get(SESSION)
        await world.frames(await world.submit(session_id=SESSION, max_tokens=4))
        with world.locked(), pytest.raises(StorageBusy):
            await world.submit(session_id=SESSION, max_tokens=4)
        view = world.sessions.get(SESSION)
        assert (view.turns, view.budgets.tokens.reserved) == (1, 0)


async def test_a_session_outlives_the_daemon_with_its_holds(path: Path) -> None:
    """LO-ORC-146."""
    clock = HandClock()
    async with world_at(path, terms=TEN_TOKENS, clock=clock) as world:
        world.play(answer(3), [Token("a"), Fault.SILENT])
        await world.frames(await world.submit(id_of(1), session_id=SESSION, max_tokens=4))
        running = await world.submit(id_of(2), session_id=SESSION, max_tokens=2)
        await world.until(running, "token")
        await world.submit(id_of(3), session_id=SESSION, max_tokens=1)
        assert tokens_of(world) == (5, 4, 1)
    clock.advance(60)
    async with world_at(path, terms=TEN_TOKENS, clock=clock, slots=0, recover=True) as world:
        assert error_of(await world.frames(id_of(2))) is ErrorCode.INTERRUPTED
        assert tokens_of(world) == (2, 4, 4)
        row = await row_of_session(world)
        assert (row["tokens_reserved"], row["tokens_spent"]) == (2, 4)
        view = world.sessions.get(SESSION)
        assert (view.turns, view.active, view.replica_id) == (3, 1, "chat/0")
        world.play(answer(1))
        world.serve(replica())
        await world.frames(id_of(3))
        assert tokens_of(world) == (0, 6, 4)


async def test_a_session_goes_where_its_cache_is_and_tells_what_the_engine_found(
    path: Path,
) -> None:
    """LO-ORC-127, LO-ORC-147."""
    async with world_at(path, slots=0) as world:
        world.serve(replica(0, slots=2), replica(1, slots=2))
        world.play(answer(1, tokens_in=8))
        await world.frames(await world.submit(session_id=SESSION))
        await anyio.wait_all_tasks_blocked()
        assert world.sessions.get(SESSION).replica_id == "chat/0"
        world.play([Token("x"), Fault.SILENT])
        await world.until(await world.submit(), "token")
        world.play([Progress(16, 12, 16), *answer(1, tokens_in=16, cached=12)])
        await world.frames(await world.submit(session_id=SESSION))
        # The other task left the session's slot alone, and the busier replica was preferred.
        assert [replica_id for replica_id, _ in world.leases.epochs] == ["chat/0"] * 3
        assert world.leases.preferred == [0, 1, 0]
        view = world.sessions.get(SESSION)
        assert (view.kv_warmth, view.replica_id) == (0.75, "chat/0")


async def test_a_cache_is_gone_with_its_replica(path: Path) -> None:
    """LO-ORC-147."""
    async with world_at(path, slots=0) as world:
        here = replica(0).model_copy(update={"pid": 7})
        world.serve(here)
        world.play(answer(1, tokens_in=8, cached=4))
        await world.frames(await world.submit(session_id=SESSION))
        assert world.sessions.get(SESSION).kv_warmth == 0.5
        world.serve(here.model_copy(update={"pid": 8}))
        view = world.sessions.get(SESSION)
        assert (view.kv_warmth, view.replica_id) == (0.0, None)


async def test_another_task_in_its_slot_leaves_a_session_cold(path: Path) -> None:
    """LO-ORC-147: also on disk, so that two sessions never claim one slot."""
    async with world_at(path, terms=NO_LIMITS) as world:
        world.play(answer(1, tokens_in=8, cached=4), answer(1))
        await world.frames(await world.submit(session_id=SESSION))
        await world.frames(await world.submit())
        view = world.sessions.get(SESSION)
        assert (view.kv_warmth, view.replica_id) == (0.0, None)
        assert (await row_of_session(world))["replica_id"] is None


async def test_pages_of_sessions_meet_without_a_gap_or_a_double(path: Path) -> None:
    async with world_at(path, slots=0) as world:
        ids = [id_of(number) for number in range(1, 8)]
        for session_id in ids:
            await world.sessions.put(session_id, SessionSettings())
            world.clock.advance(0.001)
        seen: list[str] = []
        cursor = None
        while True:
            page = world.sessions.page(cursor, 3)
            seen += [view.session_id for view in page.items]
            cursor = page.next_before
            if cursor is None:
                break
        assert seen == ids[::-1]
