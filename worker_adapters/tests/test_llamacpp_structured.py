"""Output held to a JSON schema or a grammar, on real llama.cpp."""

from __future__ import annotations

import json
import re
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from contracts.errors import ErrorCode
from contracts.tasks import Message
from worker_adapters.base import Finished, GenerationRequest, StreamItem, Token
from worker_adapters.errors import EngineRefused
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.tests.conftest import RunningEngine
from worker_adapters.transport import EngineTransport

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["stone", "river"]},
    },
    "required": ["name", "count", "kind"],
    "additionalProperties": False,
}
PROMPT = GenerationRequest(
    prompt="The river", max_tokens=200, seed=1, json_schema=SCHEMA, correlation_id="c", slot=0
)
CHAT = replace(PROMPT, prompt=None, messages=(Message(role="user", content="a stone"),))


def client_of(engine: RunningEngine, transport: EngineTransport) -> LlamaCppClient:
    return LlamaCppClient(transport, engine.base_url, engine.api_key)


async def generate(client: LlamaCppClient, request: GenerationRequest) -> tuple[str, Finished]:
    items: list[StreamItem] = []
    async with aclosing(client.stream(request)) as stream:
        items += [item async for item in stream]
    last = items[-1]
    assert isinstance(last, Finished)
    return "".join(item.text for item in items if isinstance(item, Token)), last


def follows_the_schema(said: Any) -> bool:
    return (
        set(said) == {"name", "count", "kind"}
        and len(said["name"]) <= 8
        and type(said["count"]) is int
        and 0 <= said["count"] <= 99
        and said["kind"] in ("stone", "river")
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("request_of", [PROMPT, CHAT], ids=["completion", "chat"])
async def test_the_output_is_json_of_the_schema(
    engine: RunningEngine, transport: EngineTransport, request_of: GenerationRequest, seed: int
) -> None:
    """LO-WRK-113."""
    text, last = await generate(client_of(engine, transport), replace(request_of, seed=seed))
    assert last.finish_reason == "stop", text
    assert follows_the_schema(json.loads(text)), text


@pytest.mark.parametrize("request_of", [PROMPT, CHAT], ids=["completion", "chat"])
async def test_the_output_is_a_sentence_of_the_grammar(
    engine: RunningEngine, transport: EngineTransport, request_of: GenerationRequest
) -> None:
    """LO-WRK-113."""
    request = replace(request_of, json_schema=None, grammar="root ::= [0-9]{3} [a-c]+ [.]")
    text, last = await generate(client_of(engine, transport), request)
    assert re.fullmatch(r"[0-9]{3}[a-c]+\.?", text)
    assert last.finish_reason == ("stop" if text.endswith(".") else "length")


PASSED_OVER: dict[str, dict[str, Any]] = {
    "no such type": {"type": "nope"},
    "a negation": {"not": {"type": "string"}},
    "a keyword it does not know": {"type": "array", "uniqueItems": True},
    "a format it does not know": {"type": "string", "format": "of my own"},
    "a broken pattern": {"type": "string", "pattern": "("},
    "a dead reference": {"$ref": "#/nowhere"},
    "properties that are none": {"type": "object", "properties": 3},
}


@pytest.mark.parametrize("case", PASSED_OVER)
async def test_a_schema_that_the_engine_cannot_hold_is_refused(
    engine: RunningEngine, transport: EngineTransport, case: str
) -> None:
    """LO-WRK-111: asked without a trial, the engine answers with a text of no shape at all."""
    with pytest.raises(EngineRefused, match="json_schema") as caught:
        await generate(client_of(engine, transport), replace(PROMPT, json_schema=PASSED_OVER[case]))
    assert caught.value.code is ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 3},
        {"enum": ["<a>"]},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "boolean"},
        {},
    ],
    ids=json.dumps,
)
async def test_a_schema_that_the_engine_can_hold_passes_its_trial(
    engine: RunningEngine, transport: EngineTransport, schema: dict[str, Any]
) -> None:
    """LO-WRK-111."""
    request = replace(PROMPT, json_schema=schema, max_tokens=1)
    text, _ = await generate(client_of(engine, transport), request)
    assert not text.lstrip().startswith("<")


@pytest.mark.parametrize("grammar", ["nonsense", "root ::= [", "root ::= other"])
async def test_a_wrong_grammar_is_a_wrong_parameter(
    engine: RunningEngine, transport: EngineTransport, grammar: str
) -> None:
    """LO-WRK-112."""
    with pytest.raises(EngineRefused, match="grammar") as caught:
        await generate(
            client_of(engine, transport), replace(PROMPT, json_schema=None, grammar=grammar)
        )
    assert caught.value.code is ErrorCode.INVALID_PARAMS


async def test_a_trial_leaves_the_cached_prompt_of_its_slot(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-111: the engine keeps it in memory while the trial is evaluated."""
    client = client_of(engine, transport)
    plain = replace(PROMPT, prompt="one stone after another " * 12, json_schema=None, max_tokens=4)
    await generate(client, plain)
    _, last = await generate(client, replace(plain, json_schema=SCHEMA))
    assert last.cached_tokens == last.tokens_in - 1


@pytest.mark.parametrize(
    "field",
    [
        {"min_p": 0.9},
        {"repetition_penalty": 1.8},
        {"presence_penalty": 1.9},
        {"frequency_penalty": 1.9},
    ],
    ids=str,
)
async def test_each_sampling_field_changes_what_is_sampled(
    engine: RunningEngine, transport: EngineTransport, field: dict[str, float]
) -> None:
    """LO-WRK-120."""
    client = client_of(engine, transport)
    plain = replace(PROMPT, json_schema=None, top_k=0, temperature=1.5)
    text, _ = await generate(client, plain)
    changed, _ = await generate(client, replace(plain, **field))  # type: ignore[arg-type]
    assert changed != text


async def test_a_field_out_of_range_is_a_wrong_parameter(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-110."""
    wrong = replace(PROMPT, json_schema=None, repetition_penalty=-1.0)
    with pytest.raises(EngineRefused, match="penalty") as caught:
        await generate(client_of(engine, transport), wrong)
    assert caught.value.code is ErrorCode.INVALID_PARAMS


async def test_the_slot_that_served_is_told_and_not_the_one_that_was_wished_for(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-114: a wish for a slot that there is not is ignored without a word."""
    client = client_of(engine, transport)
    plain = replace(PROMPT, json_schema=None, max_tokens=2)
    told = [(await generate(client, replace(plain, slot=slot)))[1].slot for slot in (0, 1, 9)]
    assert told[:2] == [0, 1]
    assert told[2] in (0, 1)
