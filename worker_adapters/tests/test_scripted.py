"""The engine that does what it is told."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import anyio
import pytest

from contracts.tasks import Message
from worker_adapters.base import (
    EmbeddingRequest,
    Embeddings,
    Finished,
    GenerationRequest,
    Progress,
    Ranking,
    RerankRequest,
    StreamItem,
    Token,
)
from worker_adapters.errors import EngineError, EngineProtocolError
from worker_adapters.scripted import Fault, ScriptedClient, Step, fault_error

pytestmark = pytest.mark.anyio

REQUEST = GenerationRequest(prompt="x", max_tokens=1, seed=1, correlation_id="c")
END = Finished("stop", 1, 1, None)


async def played(client: ScriptedClient) -> list[StreamItem]:
    async with aclosing(client.stream(REQUEST)) as stream:
        return [event async for event in stream]


async def test_it_plays_its_list_to_every_stream() -> None:
    """LO-WRK-016."""
    script: list[Step] = [Progress(1, None, 1), Token("a"), END]
    client = ScriptedClient(script)
    assert await played(client) == await played(client) == script
    assert client.requests == [REQUEST, REQUEST]


async def test_a_prompt_has_as_many_tokens_as_words() -> None:
    chat = GenerationRequest(
        messages=(Message(role="system", content="be brief"), Message(role="user", content="hi")),
        max_tokens=1,
        seed=1,
        correlation_id="c",
    )
    client = ScriptedClient([])
    assert (await client.count_prompt(REQUEST), await client.count_prompt(chat)) == (1, 3)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.SILENT])
async def test_a_fault_raises_its_error_and_is_counted(fault: Fault) -> None:
    """LO-WRK-016."""
    client = ScriptedClient([Token("a"), fault, END])
    with pytest.raises(EngineError) as caught:
        await played(client)
    assert type(caught.value) is type(fault_error(fault))
    assert client.reached == {fault: 1}


async def test_silence_lasts_until_the_reader_gives_up() -> None:
    client = ScriptedClient([Fault.SILENT])
    with anyio.move_on_after(0.01) as scope:
        await played(client)
    assert scope.cancelled_caught
    assert (client.reached[Fault.SILENT], client.abandoned) == (1, 1)


async def test_a_stream_that_is_closed_early_is_counted() -> None:
    client = ScriptedClient([Token("a"), END])
    async with aclosing(client.stream(REQUEST)) as stream:
        await anext(stream)
    assert client.abandoned == 1


async def test_a_gate_holds_the_stream_until_it_is_set() -> None:
    gate = asyncio.Event()
    script: list[Step] = [Token("a"), gate, END]
    async with aclosing(ScriptedClient(script).stream(REQUEST)) as stream:
        assert await anext(stream) == Token("a")
        waiting = asyncio.ensure_future(anext(stream))
        await anyio.wait_all_tasks_blocked()
        assert not waiting.done()
        gate.set()
        assert await waiting == END


EMBEDDING = EmbeddingRequest(inputs=("a", "b"), correlation_id="c")
RERANK = RerankRequest(query="q", documents=("a",), correlation_id="c")
VECTORS, SCORES = Embeddings(((1.0,), (2.0,)), 2), Ranking((0.5,), 2)


async def test_an_embedding_and_a_rerank_are_answered_from_the_list() -> None:
    """LO-WRK-016."""
    client = ScriptedClient([Token("never"), VECTORS, SCORES, END])
    assert await client.embed(EMBEDDING) is VECTORS
    assert await client.rerank(RERANK) is SCORES
    assert client.asked == [EMBEDDING, RERANK]
    assert await played(client) == [Token("never"), END]


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.SILENT])
async def test_a_fault_before_the_answer_raises_its_error(fault: Fault) -> None:
    """LO-WRK-016."""
    client = ScriptedClient([fault, SCORES])
    with pytest.raises(type(fault_error(fault))):
        await client.rerank(RERANK)
    assert client.reached == {fault: 1}


async def test_a_list_without_the_answer_is_an_unfinished_one() -> None:
    with pytest.raises(EngineProtocolError):
        await ScriptedClient([SCORES]).embed(EMBEDDING)


async def test_a_question_that_is_given_up_is_counted() -> None:
    client = ScriptedClient([Fault.SILENT])
    with anyio.move_on_after(0.01) as scope:
        await client.embed(EMBEDDING)
    assert scope.cancelled_caught
    assert client.abandoned == 1
