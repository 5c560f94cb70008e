"""The way in: the order of the checks, the exact context, and what makes room."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from contracts.errors import ErrorCode, Refusal
from contracts.ids import new_uuid
from contracts.tasks import TaskState
from orchestratord.domain.budgets import Limits
from orchestratord.domain.decisions import QueueRules
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.sessions import SessionTerms
from orchestratord.errors import StorageBusy
from orchestratord.tests.builders import TASK_ID, replica
from orchestratord.tests.runtime.world import END, PoolFault, World, error_of, world_at
from orchestratord.tests.stores.rows import id_of
from worker_adapters.base import Finished, Token
from worker_adapters.errors import EngineUnreachable
from worker_adapters.scripted import Fault

pytestmark = pytest.mark.anyio

SMALL = PoolSpec("chat", "llamacpp", "tiny", "file:/models/tiny", ctx=64)
SESSION = new_uuid()
WORDS = "word " * 40
"""40 tokens for the scripted tokenizer, 200 bytes: too long only by an estimate."""


async def refusal(world: World, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await world.submit(**fields)
    return caught.value


async def paced(world: World, tokens: int, seconds: float) -> None:
    """Run a task of one token after another in so many seconds of the hand-moved clock."""
    gate = asyncio.Event()
    world.play([Token("a"), gate, Token("b"), Finished("stop", 1, tokens, 0)])
    accepted = await world.submit(max_tokens=tokens)
    await world.until(accepted, "token")
    world.clock.advance(seconds)
    gate.set()
    await world.frames(accepted)
    await anyio.wait_all_tasks_blocked()


async def test_a_prompt_that_fits_beyond_doubt_is_not_counted(path: Path) -> None:
    async with world_at(path, specs=(SMALL,)) as world:
        await world.submit(prompt="word " * 10, max_tokens=8)
        assert world.engines.counters == []


async def test_a_prompt_in_doubt_is_counted_by_the_engine_and_exact_to_the_token(
    path: Path,
) -> None:
    """LO-ORC-141."""
    async with world_at(path, specs=(SMALL,)) as world:
        await world.submit(prompt=WORDS, max_tokens=24)
        assert len(world.engines.counters) == 1
        refused = await refusal(world, prompt=WORDS, max_tokens=25)
        assert refused.code is ErrorCode.CONTEXT_EXCEEDED
        assert refused.details == {"needed_tokens": 65, "ctx": 64}
        assert world.leases.endpoints == 1, "the endpoint of a launch is asked for once"
        world.serve(replica().model_copy(update={"pid": 77}))
        await world.submit(prompt=WORDS, max_tokens=24)
        assert world.leases.endpoints == 2


@pytest.mark.parametrize("silent", ["no replica", "engine", "manager"])
async def test_where_nobody_can_count_the_task_is_taken(path: Path, silent: str) -> None:
    async with world_at(path, specs=(SMALL,), slots=0) as world:
        if silent != "no replica":
            world.serve(replica())
        if silent == "engine":
            world.engines.uncountable = EngineUnreachable("gone")
        if silent == "manager":
            world.leases.faults.append(PoolFault.AWAY)
        accepted = await world.submit(prompt=WORDS, max_tokens=25)
        assert accepted.state is TaskState.QUEUED


async def test_of_two_pools_the_first_whose_context_suffices_is_taken(path: Path) -> None:
    large = PoolSpec("chat2", "llamacpp", "tiny", "file:/models/tiny", ctx=4_096)
    async with world_at(path, specs=(SMALL, large)) as world:
        for tokens, pool_id in ((24, "chat"), (25, "chat2")):
            accepted = await world.submit(prompt=WORDS, max_tokens=tokens)
            assert (await world.row(accepted))["pool_id"] == pool_id


async def test_a_task_that_fails_several_checks_is_told_the_first(path: Path) -> None:
    """LO-ORC-005: each check is mended in turn, and the next one answers."""
    terms = SessionTerms(600_000, 1, Limits(tokens=40))
    async with world_at(path, specs=(SMALL,), terms=terms, rules=QueueRules(1)) as world:
        await paced(world, tokens=8, seconds=8.0)
        world.play([Token("a"), Fault.SILENT])
        await world.submit(id_of(1), session_id=SESSION)
        waiting = await world.submit(id_of(2), max_tokens=8)
        fields: dict[str, Any] = {
            "task_id": id_of(1),
            "model": "other",
            "prompt": WORDS,
            "max_tokens": 60,
            "deadline_ms": 1,
            "session_id": SESSION,
        }
        codes = []
        for mended in (
            {"task_id": TASK_ID},
            {"model": "tiny"},
            {"prompt": "one", "max_tokens": 63},
            {"deadline_ms": None},
            {"session_id": new_uuid()},
            {"max_tokens": 8},
        ):
            codes.append((await refusal(world, **fields)).code)
            fields |= mended
        codes.append((await refusal(world, **fields)).code)
        assert codes == [
            ErrorCode.CONFLICT,
            ErrorCode.MODEL_UNKNOWN,
            ErrorCode.CONTEXT_EXCEEDED,
            ErrorCode.DEADLINE_UNMET,
            ErrorCode.SESSION_TURNS_EXHAUSTED,
            ErrorCode.BUDGET_EXHAUSTED,
            ErrorCode.QUEUE_FULL,
        ]
        await world.dispatcher.cancel(waiting.task_id)
        assert (await world.submit(**fields)).queue_position == 0


async def test_a_full_queue_says_when_there_will_be_room(path: Path) -> None:
    """LO-ORC-142."""
    async with world_at(path, capacity=1) as world:
        await paced(world, tokens=11, seconds=10.0)
        world.play([Token("a"), Fault.SILENT])
        await world.until(await world.submit(max_tokens=11), "token")
        accepted = await world.submit(max_tokens=11)
        assert accepted.queue_position == 0
        refused = await refusal(world)
        assert refused.code is ErrorCode.QUEUE_FULL
        assert refused.retry_after_ms == pytest.approx(10_000, rel=0.2)
        assert accepted.backoff_ms == refused.retry_after_ms
        assert accepted.predicted_start_ms == pytest.approx(10_000, rel=0.2)
        world.clock.advance(4)
        assert (await refusal(world)).retry_after_ms == pytest.approx(10_000, rel=0.2), (
            "a task that shows no progress is not believed to be nearer its end"
        )


async def test_how_far_a_prediction_was_off_is_told(path: Path) -> None:
    """LO-ORC-150."""
    async with world_at(path) as world:
        await paced(world, tokens=11, seconds=10.0)
        world.play([Token("a"), gate := asyncio.Event(), Finished("stop", 1, 11, 0)])
        running = await world.submit(max_tokens=11)
        await world.until(running, "token")
        waiting = await world.submit(max_tokens=11)
        assert waiting.predicted_start_ms is not None
        world.clock.advance(waiting.predicted_start_ms / 1000 + 0.2)
        gate.set()
        await world.frames(waiting)
        scraped = world.registry.render().decode()
        sums = [line for line in scraped.split("\n") if line.startswith("prediction_error_ms_sum")]
        assert float(sums[0].split()[-1]) == pytest.approx(200, abs=1)


async def test_nothing_is_predicted_before_a_rate_is_known(world: World) -> None:
    """LO-ORC-128."""
    assert (await world.submit()).predicted_start_ms is None
    await anyio.wait_all_tasks_blocked()
    world.play([Token("a"), Fault.SILENT])
    await world.submit()
    assert (await world.submit()).predicted_start_ms is None


@pytest.mark.parametrize("priority", ["interactive", "batch"])
async def test_a_full_queue_drops_its_oldest_batch_task_for_a_newer_one(
    path: Path, priority: str
) -> None:
    """LO-ORC-121."""
    rules = QueueRules(3, "drop-lru")
    async with world_at(path, slots=0, rules=rules) as world:
        await world.submit(id_of(1), priority="interactive")
        await world.submit(id_of(2), priority="batch")
        await world.submit(id_of(3), priority="batch")
        await world.submit(id_of(4), priority=priority)
        frames = await world.frames(id_of(2))
        assert [frame.name for frame in frames] == ["error"]
        assert error_of(frames) is ErrorCode.QUEUE_FULL_DROP_LRU
        assert frames[-1].data["retriable"] is True
        assert (await world.row(id_of(2)))["error_code"] == "QUEUE_FULL_DROP_LRU"
        assert [world.position(id_of(n)) is None for n in (1, 2, 3, 4)] == [False, True] + [
            False
        ] * 2


async def test_interactive_tasks_are_never_dropped(path: Path) -> None:
    """LO-ORC-121."""
    async with world_at(path, slots=0, rules=QueueRules(2, "drop-lru")) as world:
        for number in (1, 2):
            await world.submit(id_of(number))
        for priority in ("interactive", "batch"):
            assert (await refusal(world, priority=priority)).code is ErrorCode.QUEUE_FULL
        assert [world.position(id_of(n)) for n in (1, 2)] == [0, 1]


async def test_a_task_that_cannot_be_committed_drops_nobody(path: Path) -> None:
    """LO-ORC-006, LO-ORC-121."""
    async with world_at(path, slots=0, rules=QueueRules(1, "drop-lru")) as world:
        await world.submit(id_of(1), priority="batch")
        with world.locked(), pytest.raises(StorageBusy):
            await world.submit(id_of(2))
        assert world.position(id_of(1)) == 0
        await world.submit(id_of(3))
        assert error_of(await world.frames(id_of(1))) is ErrorCode.QUEUE_FULL_DROP_LRU


async def test_a_dropped_task_gives_back_what_it_held(path: Path) -> None:
    """LO-ORC-121, LO-ORC-124."""
    terms = SessionTerms(600_000, 8, Limits(tokens=1_000))
    async with world_at(path, slots=0, rules=QueueRules(1, "drop-lru"), terms=terms) as world:
        dropped = await world.submit(id_of(1), priority="batch", session_id=SESSION)
        assert dropped.budgets is not None
        assert dropped.budgets.tokens.reserved > 0
        await world.submit(id_of(2))
        await world.frames(id_of(1))
        budget = world.sessions.get(SESSION).budgets.tokens
        assert (budget.reserved, budget.spent, budget.remaining) == (0, 0, 1_000)


async def test_batch_tasks_that_waited_too_long_go_first(path: Path) -> None:
    """LO-ORC-120."""
    rules = QueueRules(10, batch_max_wait_s=300)
    async with world_at(path, slots=0, rules=rules) as world:
        await world.submit(id_of(1), priority="batch")
        world.clock.advance(299)
        await world.submit(id_of(2), priority="interactive")
        assert [world.position(id_of(n)) for n in (1, 2)] == [1, 0]
        world.clock.advance(1)
        assert [world.position(id_of(n)) for n in (1, 2)] == [0, 1]
        world.play([END])
        world.serve(replica())
        await world.frames(id_of(1))
        assert world.engines.clients[0].requests[0].correlation_id == "c-1"


async def test_the_same_task_again_is_told_as_of_now(path: Path) -> None:
    """LO-ORC-002."""
    async with world_at(path, slots=0) as world:
        await world.submit(id_of(1))
        first = await world.submit(id_of(2))
        await world.dispatcher.cancel(id_of(1))
        again = await world.submit(id_of(2))
        assert (first.queue_position, again.queue_position) == (1, 0)
