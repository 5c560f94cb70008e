"""What every adapter makes of the real engine: the same questions for all that can be had here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.tasks import Message, Workload
from test_harness.conformance.asking import (
    failure_of,
    finished_of,
    items_of,
    request_of,
    text_of,
)
from test_harness.conformance.real_engines import CTX, REAL, RealEngine, serving
from worker_adapters.base import EngineClient, GenerationRequest, Token
from worker_adapters.errors import EngineRefused

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

IDLE_S = 10.0
POLL_S = 1.1
"""llama.cpp looks for a client that left only while nobody asks it anything."""
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["city", "count"],
    "additionalProperties": False,
}


@pytest.fixture(params=sorted(REAL), scope="module")
def real(request: pytest.FixtureRequest) -> RealEngine:
    found = REAL[request.param]
    if found.missing is not None:
        pytest.skip(found.missing)
    return found


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """For the whole module, so that one engine serves all its tests."""
    return "asyncio"


@pytest.fixture(scope="module")
async def client(
    real: RealEngine, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EngineClient]:
    async with serving(real, tmp_path_factory.mktemp(real.name), real.slots) as served:
        yield served


def greedy(**fields: Any) -> GenerationRequest:
    """The likeliest tokens, without the cache."""
    given: dict[str, Any] = {"temperature": 0.0, "cache_prompt": False, "max_tokens": 24}
    return request_of(**(given | fields))


async def text(client: EngineClient, request: GenerationRequest) -> str:
    return text_of(await items_of(client, request))


async def needs(client: EngineClient, *features: Feature) -> None:
    """Skip where the engine says that it cannot; that it then refuses is tested elsewhere."""
    can = (await client.capabilities()).features
    for feature in features:
        if feature not in can:
            pytest.skip(f"the engine has no {feature}")


async def test_it_tells_what_it_is(client: EngineClient, real: RealEngine) -> None:
    """LO-WRK-096."""
    seen, can = await client.observe(), await client.capabilities()
    assert seen.ctx >= 1
    assert seen.slots_busy in (0, None)
    assert can.workloads == real.workloads
    assert {Feature.CANCEL, Feature.STOP} & can.features


async def test_a_text_is_as_long_as_it_says(client: EngineClient) -> None:
    """LO-WRK-090."""
    items = await items_of(client, greedy())
    end = finished_of(items)
    assert text_of(items)
    assert 1 <= end.tokens_out <= 24
    assert end.finish_reason in ("length", "stop")
    assert end.finish_reason != "length" or end.tokens_out == 24


async def test_a_chat_is_answered(client: EngineClient, real: RealEngine) -> None:
    """LO-WRK-090."""
    if Workload.CHAT not in real.workloads:
        pytest.skip(f"{real.name} has no chat template")
    messages = (Message(role="system", content="Be calm."), Message(role="user", content="Hi"))
    items = await items_of(client, greedy(prompt=None, messages=messages))
    assert finished_of(items).tokens_out >= 1


async def test_what_it_counts_is_what_it_evaluates(client: EngineClient) -> None:
    """LO-WRK-096: a prompt, and a chat as its template renders it."""
    await needs(client, Feature.TOKENIZE)
    chat = greedy(prompt=None, messages=(Message(role="user", content="a green river"),))
    for request in (greedy(prompt="The old stone bridge"), chat):
        counted = await client.count_prompt(request)
        assert counted == finished_of(await items_of(client, request)).tokens_in


async def test_an_equal_request_gives_an_equal_text(client: EngineClient, real: RealEngine) -> None:
    """LO-WRK-096: and another seed another one."""
    await needs(client, Feature.SEED)
    if not real.exact:
        pytest.skip(f"{real.name} promises no such thing")
    sampled = request_of(seed=7, temperature=1.0, top_p=1.0, max_tokens=24, cache_prompt=False)
    other = request_of(seed=8, temperature=1.0, top_p=1.0, max_tokens=24, cache_prompt=False)
    assert await text(client, sampled) == await text(client, sampled)
    assert await text(client, sampled) != await text(client, other)


async def test_one_candidate_is_the_likeliest(client: EngineClient, real: RealEngine) -> None:
    """LO-WRK-096: a sampling field that is told is obeyed."""
    await needs(client, Feature.TOP_K)
    if not real.exact:
        pytest.skip(f"{real.name} promises no such thing")
    one = request_of(top_k=1, temperature=1.0, max_tokens=24, cache_prompt=False)
    assert await text(client, one) == await text(client, greedy())


async def test_a_stop_string_ends_the_text_and_is_no_part_of_it(client: EngineClient) -> None:
    """LO-WRK-090."""
    await needs(client, Feature.STOP)
    whole = await text(client, greedy())
    word = whole.split()[2]
    items = await items_of(client, greedy(stop=(f" {word}",)))
    assert finished_of(items).finish_reason == "stop_string"
    assert text_of(items) == whole[: whole.index(f" {word}")]


async def test_a_prompt_beyond_the_context_is_refused_as_such(client: EngineClient) -> None:
    """LO-WRK-093."""
    if Feature.TOKENIZE not in (await client.capabilities()).features:
        pytest.skip("the engine knows no context")
    ctx = (await client.observe()).ctx
    came, error = await failure_of(client, greedy(prompt="stone " * (ctx + 40)))
    assert not came
    assert isinstance(error, EngineRefused)
    assert error.code is ErrorCode.CONTEXT_EXCEEDED


async def test_json_of_a_schema_is_json_of_that_schema(client: EngineClient) -> None:
    """LO-WRK-097."""
    await needs(client, Feature.JSON_SCHEMA)
    request = request_of(json_schema=SCHEMA, max_tokens=200, temperature=0.8)
    items = await items_of(client, request)
    said = json.loads(text_of(items))
    assert set(said) == {"city", "count"}
    assert len(said["city"]) <= 8
    assert said["count"] in range(10)


async def test_a_grammar_that_is_none_is_refused(client: EngineClient) -> None:
    """LO-WRK-097: by the engine, as a wrong parameter."""
    await needs(client, Feature.GRAMMAR)
    _, error = await failure_of(client, request_of(grammar="root ::= ((("))
    assert isinstance(error, EngineRefused)
    assert error.code is ErrorCode.INVALID_PARAMS


async def test_what_it_cannot_is_refused_before_anything_is_said(client: EngineClient) -> None:
    """LO-WRK-097."""
    wishes: dict[Feature, dict[str, Any]] = {
        Feature.JSON_SCHEMA: {"json_schema": SCHEMA},
        Feature.GRAMMAR: {"grammar": 'root ::= "a"'},
        Feature.TOP_K: {"top_k": 3},
        Feature.MIN_P: {"min_p": 0.1},
    }
    can = (await client.capabilities()).features
    for feature, fields in wishes.items():
        if feature not in can:
            came, error = await failure_of(client, request_of(**fields))
            assert not came
            assert isinstance(error, EngineRefused)
            assert error.code is ErrorCode.INVALID_PARAMS


async def test_a_client_that_leaves_frees_the_engine(client: EngineClient) -> None:
    """LO-WRK-094."""
    request = greedy(max_tokens=CTX - 64)
    async with aclosing(client.stream(request)) as stream:
        async for item in stream:
            if isinstance(item, Token):
                break
    with anyio.fail_after(IDLE_S):
        while (await client.observe()).slots_busy:  # noqa: ASYNC110 - it tells nobody
            await anyio.sleep(POLL_S)


async def test_requests_at_once_do_not_mix(client: EngineClient, real: RealEngine) -> None:
    """LO-WRK-090: more of them than it has slots."""
    requests = [greedy(max_tokens=n) for n in (3, 5, 7, 9)]
    streams = await asyncio.gather(*(items_of(client, request) for request in requests))
    for request, items in zip(requests, streams, strict=True):
        assert finished_of(items).tokens_out <= request.max_tokens
        assert sum(isinstance(item, Token) for item in items) <= request.max_tokens


async def test_only_an_engine_with_our_key_is_ours(client: EngineClient, real: RealEngine) -> None:
    """LO-WRK-098."""
    has_key = real.engine != "triton" and not real.runs_already
    assert await client.prove_identity() is has_key


async def test_two_launches_with_one_slot_say_the_same(real: RealEngine, tmp_path: Path) -> None:
    """LO-WRK-096: two launches with one slot say the same."""
    if not real.exact:
        pytest.skip(f"{real.name} promises no such thing")
    texts = []
    for launch in ("first", "second"):
        folder = tmp_path / launch
        await anyio.Path(folder).mkdir()
        async with serving(real, folder, slots=1) as alone:
            sampled = request_of(seed=5, temperature=1.0, max_tokens=40, cache_prompt=False)
            texts.append(await text(alone, sampled))
    assert texts[0] == texts[1]
