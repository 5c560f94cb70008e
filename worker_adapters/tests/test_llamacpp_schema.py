"""Schemas and grammars that a server would pass over, before anything is generated."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import replace

import pytest

from contracts.errors import ErrorCode
from worker_adapters.base import GenerationRequest, StreamItem
from worker_adapters.errors import EngineProtocolError, EngineRefused
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.tests.hostile import answer, hostile
from worker_adapters.transport import EngineTransport

REQUEST = GenerationRequest(prompt="x", max_tokens=2, seed=1, correlation_id="c-1")
HELD, PASSED_OVER = b'{"content":" {"}', b'{"content":" <"}'


async def streamed(
    transport: EngineTransport, base_url: str, request: GenerationRequest
) -> list[StreamItem]:
    client = LlamaCppClient(transport, base_url, "key")
    async with aclosing(client.stream(request)) as stream:
        return [event async for event in stream]


@pytest.mark.anyio
async def test_a_schema_the_server_passes_over_is_refused_before_anything_is_generated(
    transport: EngineTransport,
) -> None:
    """LO-WRK-111."""
    request = replace(REQUEST, json_schema={"uniqueItems": True}, slot=3)
    async with hostile([answer(200, PASSED_OVER)]) as server:
        with pytest.raises(EngineRefused, match="json_schema") as caught:
            await streamed(transport, server.base_url, request)
    assert caught.value.code is ErrorCode.INVALID_PARAMS
    (trial,) = (json.loads(sent.partition(b"\r\n\r\n")[2]) for sent in server.requests)
    assert trial["json_schema"] == {"uniqueItems": True}
    assert (trial["n_predict"], trial["id_slot"], trial["cache_prompt"]) == (1, 3, False)


@pytest.mark.anyio
async def test_a_schema_that_holds_is_asked_for_again_with_the_prompt(
    transport: EngineTransport,
) -> None:
    """LO-WRK-111."""
    request = replace(REQUEST, json_schema={"type": "object"})
    async with hostile([answer(200, HELD)]) as server:
        with pytest.raises(EngineProtocolError, match="not an event stream"):
            await streamed(transport, server.base_url, request)
    sent = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in server.requests]
    assert [one["json_schema"] for one in sent] == [{"type": "object"}] * 2
    assert [one["prompt"] for one in sent] == ["<", "x"]


@pytest.mark.anyio
async def test_a_grammar_in_anothers_notation_is_refused_and_never_sent(
    transport: EngineTransport,
) -> None:
    """LO-WRK-112: the server would pass over its faults in silence."""
    request = replace(REQUEST, grammar="\n%llguidance {}\nstart: /[/")
    async with hostile([]) as server:
        with pytest.raises(EngineRefused, match="GBNF") as caught:
            await streamed(transport, server.base_url, request)
    assert caught.value.code is ErrorCode.INVALID_PARAMS
    assert server.requests == []
