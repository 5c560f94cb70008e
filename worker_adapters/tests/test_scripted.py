"""The engine that does what it is told."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import anyio
import pytest

from contracts.tasks import Message
from worker_adapters.base import Finished, GenerationRequest, Progress, StreamItem, Token
from worker_adapters.errors import EngineError
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
