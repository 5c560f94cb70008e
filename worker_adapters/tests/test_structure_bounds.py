"""Schemas and grammars that an engine would not survive, and those that only look so."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from contracts.errors import ErrorCode
from worker_adapters.base import EngineClient, GenerationRequest
from worker_adapters.errors import EngineRefused
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.structure_bounds import check_structure
from worker_adapters.tests.conftest import RunningEngine
from worker_adapters.tests.hostile import hostile
from worker_adapters.tgi import TgiClient
from worker_adapters.transport import EngineTransport
from worker_adapters.vllm import VllmClient

REQUEST = GenerationRequest(prompt="x", max_tokens=2, seed=1, correlation_id="c-1")
NESTED = 'root ::= {0}"a"{1}'
DEADLY: list[tuple[str, dict[str, Any]]] = [
    ("parentheses", {"grammar": NESTED.format("(" * 30_000, ")" * 30_000)}),
    ("parentheses", {"grammar": 'root ::= <"> ' + "(" * 300 + '"a"' + ")" * 300}),
    ("elements", {"grammar": "root ::= " + '"a"{0,2000} ' * 4_000}),
    ("elements", {"grammar": 'root ::= (("a"{1000}) {1000}){1000}'}),
    ("elements", {"grammar": f'root ::= "a"{{{"9" * 5_000}}}'}),
    ("items", {"json_schema": {"type": "array", "maxItems": 100_000_000}}),
    ("items", {"json_schema": {"anyOf": [{"items": {"minItems": 60_000}}] * 2}}),
    ("items", {"json_schema": {"$ref": "#/const", "const": {"maxItems": 1e8}}}),
    ("pattern", {"json_schema": {"pattern": "(" * 300 + ")" * 300}}),
    ("pattern", {"json_schema": {"patternProperties": {"(" * 300 + ")" * 300: {}}}}),
    ("bytes", {"json_schema": {"properties": {f"p{n}": {} for n in range(9_000)}}}),
]
HARMLESS: list[dict[str, Any]] = [
    {"grammar": NESTED.format("(" * 200, ")" * 200)},
    {"grammar": 'root ::= "' + "(" * 30_000 + '"'},
    {"grammar": r"root ::= [(\](]{2,9} # " + "(" * 30_000},
    {"grammar": r'root ::= "\"(" ([0-9]{1,3} ("." [0-9]+)?){2,} b' + "\nb ::= a{0,}\na ::= ."},
    {"grammar": "root ::= " + "( a ) " * 1_000 + '\na ::= "x"'},
    {"grammar": "[" * 60_000 + "\\"},
    {"grammar": "<" * 60_000},
    {"grammar": "{" + " 1" * 32_000},
    {"json_schema": {"pattern": "[" * 60_000 + "\\"}},
    {"json_schema": {"type": "array", "items": {"maxItems": 9}, "minItems": True}},
    {"json_schema": {"pattern": r"^(\(){1,9}[(]" + "(a)" * 1_000}},
    {"json_schema": {"maxLength": 10_000_000, "const": "(" * 30_000}},
]


@pytest.mark.parametrize(("why", "structure"), DEADLY)
def test_what_an_engine_would_not_survive_is_refused(why: str, structure: dict[str, Any]) -> None:
    """LO-WRK-165."""
    with pytest.raises(EngineRefused, match=why) as caught:
        check_structure(replace(REQUEST, **structure))
    assert caught.value.code is ErrorCode.INVALID_PARAMS


@pytest.mark.parametrize("structure", HARMLESS)
def test_what_only_looks_so_is_not(structure: dict[str, Any]) -> None:
    """LO-WRK-165: and it is soon seen, or the event loop would stand still."""
    before = time.thread_time()
    check_structure(replace(REQUEST, **structure))
    assert time.thread_time() - before < 2.0


@pytest.mark.anyio
@pytest.mark.parametrize("client", [LlamaCppClient, TgiClient, VllmClient])
async def test_no_engine_is_sent_such_a_thing(
    client: type[LlamaCppClient | TgiClient | VllmClient], transport: EngineTransport
) -> None:
    """LO-WRK-165."""
    request = replace(REQUEST, json_schema={"type": "array", "maxItems": 100_000_000})
    async with hostile([]) as server:
        with pytest.raises(EngineRefused, match="items"):
            await _run_out(client(transport, server.base_url, "key"), request)
    assert server.requests == []


@pytest.mark.anyio
@pytest.mark.slow
async def test_real_llama_cpp_lives_on(engine: RunningEngine, transport: EngineTransport) -> None:
    """LO-WRK-165: and what is within the bounds it takes."""
    client = LlamaCppClient(transport, engine.base_url, engine.api_key)
    with pytest.raises(EngineRefused, match="parentheses"):
        await _run_out(client, replace(REQUEST, **DEADLY[0][1]))
    within = NESTED.format("(" * 255, ")" * 255)
    await _run_out(client, replace(REQUEST, grammar=within))


async def _run_out(client: EngineClient, request: GenerationRequest) -> None:
    async with aclosing(client.stream(request)) as stream:
        async for _ in stream:
            pass
