"""Embeddings and reranks: placed, asked, checked, written down and told like any task."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from contracts.config import Streams
from contracts.engines import Feature
from contracts.errors import ErrorCode, Refusal
from contracts.events import EndEvent
from contracts.ids import new_uuid
from contracts.tasks import RerankResult, Workload
from orchestratord.domain.budgets import Limits
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.sessions import SessionTerms
from orchestratord.runtime.event_log import EventLog
from orchestratord.runtime.results import SLICE_NUMBERS, ask
from orchestratord.stores.tasks import NewTask
from orchestratord.tests.builders import TASK_ID, abilities, replica, task_request
from orchestratord.tests.runtime.frames import Frame
from orchestratord.tests.runtime.world import GREETING, World, error_of, world_at
from worker_adapters.base import EmbeddingRequest, Embeddings, Ranking, RerankRequest
from worker_adapters.scripted import Fault, ScriptedClient, Step

pytestmark = pytest.mark.anyio

POOL = PoolSpec("chat", "llamacpp", "tiny", "file:/models/tiny", 512, "embedding")
ALL = abilities(*Workload)
EMBED: dict[str, Any] = {"workload": "embedding", "inputs": ["one two", "three"], "prompt": None}
RERANK: dict[str, Any] = {"workload": "rerank", "inputs": ["q", "a", "b", "c"], "prompt": None}
VECTORS = Embeddings(((0.5, -1.0), (1e-9, 3.0)), 5)
SCORES = Ranking((0.25, 2.0, 0.25), 9)
SESSION = new_uuid()


def serve(world: World, *numbers: int, slots: int = 1) -> None:
    found = numbers or (0,)
    world.serve(*(replica(n, slots=slots, capabilities=ALL) for n in found))


async def ended(world: World, fields: dict[str, Any], *script: Step) -> list[Frame]:
    world.play(script)
    return await world.frames(await world.submit(**fields))


async def test_an_embedding_ends_with_its_vectors_and_no_token(world: World) -> None:
    """LO-ORC-163, LO-ORC-165."""
    serve(world)
    world.play([VECTORS])
    accepted = await world.submit(**EMBED)
    frames = await world.frames(accepted)
    assert [(frame.id, frame.name) for frame in frames] == [(1, "started"), (2, "end")]
    assert world.engines.clients[0].model_id == POOL.model_id
    end = EndEvent.model_validate_json(json.dumps(frames[-1].data))
    assert end.result is not None
    assert end.result.model_dump(mode="json") == {"embeddings": [[0.5, -1.0], [1e-9, 3.0]]}
    assert (end.finish_reason, end.tokens_in, end.tokens_out) == ("stop", 5, 0)
    assert (end.first_token_ms, end.decode_ms) == (None, None)
    row = await world.row(accepted)
    assert json.loads(row["result"]) == {"embeddings": [[0.5, -1.0], [1e-9, 3.0]]}
    assert (row["state"], row["text"], row["readable"]) == ("succeeded", "", 0)
    assert world.engines.clients[0].asked == [
        EmbeddingRequest(inputs=("one two", "three"), correlation_id="c-1")
    ]
    await anyio.wait_all_tasks_blocked()
    assert world.leases.held == {}


async def test_a_rerank_ranks_each_document_once_best_first(world: World) -> None:
    """LO-ORC-163: equal ones in the order they came."""
    serve(world)
    frames = await ended(world, RERANK, SCORES)
    result = RerankResult.model_validate_json(json.dumps(frames[-1].data["result"]))
    assert [(found.index, found.score) for found in result.ranking] == [
        (1, 2.0),
        (0, 0.25),
        (2, 0.25),
    ]
    assert world.engines.clients[0].asked == [
        RerankRequest(query="q", documents=("a", "b", "c"), correlation_id="c-1")
    ]


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.UNREACHABLE, Fault.BUSY])
async def test_a_lost_engine_means_another_attempt_elsewhere(world: World, fault: Fault) -> None:
    """LO-ORC-168: nothing of it can have been read."""
    serve(world, 0, 1)
    world.play([fault])
    frames = await ended(world, EMBED, VECTORS)
    # The second script is for the second attempt.
    assert [frame.name for frame in frames] == ["started", "started", "end"]
    assert [f.data["replica_id"] for f in frames[:2]] == ["chat/0", "chat/1"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.FAILED, ErrorCode.WORKER_RESET),
        (Fault.FOREIGN, ErrorCode.UPSTREAM_PROTOCOL),
        (Fault.UNFINISHED, ErrorCode.UPSTREAM_PROTOCOL),
        (Fault.CONTEXT_EXCEEDED, ErrorCode.CONTEXT_EXCEEDED),
        (Fault.INVALID, ErrorCode.INVALID_PARAMS),
        (Fault.UNSERVED, ErrorCode.INVALID_PARAMS),
    ],
)
async def test_a_failure_of_the_engine_ends_the_task_with_its_code(
    world: World, fault: Fault, code: ErrorCode
) -> None:
    """LO-ORC-168."""
    serve(world)
    for fields in (EMBED, RERANK):
        assert error_of(await ended(world, fields, fault)) is code


@pytest.mark.parametrize(
    ("fields", "answer", "why"),
    [
        (EMBED, Embeddings(((1.0,),), 1), "1 vectors for 2 texts"),
        (EMBED, Embeddings(((1.0,), ()), 1), "a vector of no numbers"),
        (EMBED, Embeddings(((1.0,), (float("nan"),)), 1), "not finite"),
        (EMBED, Embeddings(((1.0,), (float("inf"),)), 1), "not finite"),
        (RERANK, Ranking((1.0, 2.0), 1), "2 scores for 3 texts"),
        (RERANK, Ranking((1.0, float("-inf"), 2.0), 1), "not finite"),
    ],
)
async def test_what_is_no_answer_to_the_inputs_is_not_passed_on(
    world: World, fields: dict[str, Any], answer: Step, why: str
) -> None:
    """LO-ORC-181."""
    serve(world)
    frames = await ended(world, fields, answer)
    assert error_of(frames) is ErrorCode.UPSTREAM_PROTOCOL
    assert why in frames[-1].data["message"]


@pytest.mark.parametrize(("count", "fits"), [(15_359, True), (15_361, False)])
async def test_a_result_is_bounded_like_a_log(path: Path, count: int, fits: bool) -> None:
    """LO-ORC-165: 65,536 bytes but for 4,096 of the rest of its event, four bytes a number."""
    streams = Streams(log_bytes=65_536)
    async with world_at(path, specs=[POOL], streams=streams) as world:
        serve(world)
        fields = EMBED | {"inputs": ["one"]}
        frames = await ended(world, fields, Embeddings(((0.5,) * count,), 1))
        if fits:
            assert len(frames[-1].data["result"]["embeddings"][0]) == count
        else:
            assert error_of(frames) is ErrorCode.UPSTREAM_PROTOCOL
            assert "streams.log_bytes" in frames[-1].data["message"]


async def test_silence_is_a_timeout_and_a_cancel_closes_the_question(world: World) -> None:
    """LO-ORC-168."""
    serve(world)
    world.play([Fault.SILENT], [Fault.SILENT])
    late = await world.submit(**EMBED)
    await world.until(late, "started")
    await world.pass_time(121)
    frames = await world.frames(late)
    assert error_of(frames) is ErrorCode.DECODE_TIMEOUT
    assert frames[-1].data["message"] == "no answer within 120000 ms"
    canceled = await world.submit(**EMBED)
    await world.pass_time(1)
    await world.until(canceled, "started")
    await world.dispatcher.cancel(canceled.task_id)
    assert error_of(await world.frames(canceled)) is ErrorCode.CANCELED
    assert [client.abandoned for client in world.engines.clients] == [1, 1]


async def test_a_question_that_was_asked_at_a_kill_is_asked_again(path: Path) -> None:
    """LO-ORC-168, LO-ORC-094."""
    async with world_at(path, specs=[POOL]) as world:
        serve(world)
        world.play([Fault.SILENT])
        accepted = await world.submit(**EMBED)
        await world.until(accepted, "started")
    async with world_at(path, specs=[POOL], slots=0, recover=True) as world:
        world.play([VECTORS])
        serve(world)
        frames = await world.frames(accepted)
        assert [frame.name for frame in frames] == ["started", "end"]
        assert frames[0].data["attempt"] == 2
        assert frames[-1].data["result"]["embeddings"][0] == [0.5, -1.0]
    async with world_at(path, specs=[POOL], slots=0, recover=True) as world:
        assert json.loads((await world.row(accepted))["result"])["embeddings"][1] == [1e-9, 3.0]


async def test_the_tokens_of_all_inputs_are_held_and_charged(path: Path) -> None:
    """LO-ORC-164, LO-ORC-123, LO-ORC-124."""
    terms = SessionTerms(600_000, 100, Limits(tokens=25))
    async with world_at(path, specs=[POOL], terms=terms) as world:
        serve(world)
        gate = asyncio.Event()
        world.play([gate, VECTORS])
        accepted = await world.submit(**EMBED, session_id=SESSION)
        # Three words of two texts, and what the engine may put around each.
        assert world.sessions.get(SESSION).budgets.tokens.reserved == 3 + 2 * 8
        with pytest.raises(Refusal) as refused:
            await world.submit(**EMBED, session_id=SESSION)
        assert refused.value.code is ErrorCode.BUDGET_EXHAUSTED
        gate.set()
        end = (await world.frames(accepted))[-1].data
        assert end["budgets"]["tokens"] == {
            "limit": 25,
            "reserved": 0,
            "spent": 5,
            "remaining": 20,
        }


async def test_an_engine_cannot_bill_more_than_the_inputs_can_be(world: World) -> None:
    """LO-ORC-164."""
    serve(world)
    frames = await ended(world, EMBED, Embeddings(VECTORS.vectors, 10**9))
    assert frames[-1].data["tokens_in"] == len("one twothree") + 2 * 8


async def test_each_input_has_to_fit_by_itself(path: Path) -> None:
    """LO-ORC-164: and all of them together need not."""
    async with world_at(path, specs=[PoolSpec("chat", "llamacpp", "tiny", "x", 64)]) as world:
        serve(world)
        fields = EMBED | {"inputs": ["word " * 40] * 3}
        vectors = Embeddings(((1.0,),) * 3, 120)
        assert (await ended(world, fields, vectors))[-1].data["tokens_in"] == 120
        with pytest.raises(Refusal) as refused:
            await world.submit(**EMBED | {"inputs": ["a", "word " * 65]})
        assert refused.value.code is ErrorCode.CONTEXT_EXCEEDED
        with pytest.raises(Refusal) as refused:
            await world.submit(**RERANK | {"inputs": ["word " * 30, "a", "word " * 35]})
        assert refused.value.code is ErrorCode.CONTEXT_EXCEEDED
        fits = RERANK | {"inputs": ["word " * 30, "a", "word " * 34]}
        assert (await ended(world, fits, Ranking((1.0, 2.0), 9)))[-1].name == "end"


async def test_what_answers_took_predicts_the_next(path: Path) -> None:
    """LO-ORC-164."""
    async with world_at(path, specs=[POOL]) as world:
        serve(world)
        fields = EMBED | {"inputs": ["word " * 400]}
        for _ in range(2):
            gate = asyncio.Event()
            world.play([gate, Embeddings(((1.0,),), 400)])
            accepted = await world.submit(**fields)
            await world.until(accepted, "started")
            world.clock.advance(4)
            gate.set()
            await world.frames(accepted)
            await anyio.wait_all_tasks_blocked()
        world.play([Fault.SILENT])
        await world.until(await world.submit(**fields), "started")
        waiting = await world.submit(**fields)
        assert waiting.queue_position == 0
        assert waiting.predicted_start_ms == 4_000


async def test_a_session_s_warm_slot_is_not_claimed_for_what_leaves_no_cache(path: Path) -> None:
    """LO-ORC-147."""
    async with world_at(path, slots=0) as world:
        serve(world, slots=2)
        world.play(GREETING)
        await world.frames(await world.submit(session_id=SESSION))
        await anyio.wait_all_tasks_blocked()
        session = world.scheduler.sessions.find(SESSION, world.clock.now())
        assert session is not None
        place = session.place
        assert place is not None
        world.play([VECTORS])
        await world.frames(await world.submit(**EMBED, session_id=SESSION))
        await anyio.wait_all_tasks_blocked()
        # An embedding asked for the session's slot, and what was in it is gone.
        assert session.place is None
        assert world.leases.preferred == [0, 0]


async def test_a_large_result_leaves_the_loop_to_others(world: World) -> None:
    """LO-ORC-165: they have a turn after each slice of its numbers."""
    serve(world)
    vectors = Embeddings((tuple(0.001 * n for n in range(10 * SLICE_NUMBERS)),) * 2, 2)
    over, turns = anyio.Event(), 0

    async def take_turns() -> None:
        nonlocal turns
        while not over.is_set():
            await anyio.lowlevel.checkpoint()
            turns += 1

    world.group.start_soon(take_turns)
    new = NewTask(
        task_id=TASK_ID,
        sequence=1,
        body_sha256=b"",
        request=task_request(**EMBED),
        correlation_id="c-1",
        pool_id="chat",
        seed=1,
        created_ms=1,
    )
    result, _ = await ask(ScriptedClient([vectors]), new, 2**24)
    over.set()
    assert turns >= 18, "of twenty slices; the last turn is over with them"
    first, second = json.loads(result)["embeddings"]
    assert first == second == list(vectors.vectors[0])


async def test_a_page_leaves_results_out(world: World) -> None:
    """LO-ORC-165."""
    serve(world)
    await ended(world, EMBED, VECTORS)
    page = await world.history.page(None, None, None, 10)
    assert [task.row["result"] for task in page.tasks] == [None]


async def test_a_log_keeps_a_large_last_event_when_it_drops_the_others() -> None:
    """LO-ORC-165."""
    log = EventLog(65_536)
    for _ in range(30):
        log.append_encoded("metrics", b'{"x":"%b"}' % (b"y" * 2_000))
    log.append_encoded("end", b'{"x":"%b"}' % (b"y" * 60_000))
    assert (log.last_id, log.sealed, log.bytes <= 65_536) == (31, True, True)
    assert log.keeps_all_after(30)


async def test_a_replica_that_turns_out_not_to_serve_it_ends_the_task(path: Path) -> None:
    """LO-ORC-166: accepted while nobody had told."""
    async with world_at(path, slots=0) as world:
        schema = await world.submit(json_schema={"type": "object"})
        sampled = await world.submit(top_k=5)
        lacking = abilities(without=[Feature.JSON_SCHEMA, Feature.TOP_K])
        world.serve(replica(capabilities=lacking))
        for accepted, name in ((schema, "json_schema"), (sampled, "top_k")):
            frames = await world.frames(accepted)
            assert error_of(frames) is ErrorCode.INVALID_PARAMS
            assert frames[-1].data["message"].startswith(f"{name}: ")
            assert frames[-1].data["retriable"] is False
        assert world.engines.clients == []
