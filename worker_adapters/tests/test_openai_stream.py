"""The streams of vLLM and of any OpenAI-compatible server, from one that says what it likes."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import pytest

from contracts.errors import ErrorCode
from contracts.tasks import Message
from worker_adapters.base import Finished, GenerationRequest, Progress, StreamItem, Token
from worker_adapters.errors import EngineError, EngineFailed, EngineProtocolError, EngineRefused
from worker_adapters.openai_dialect import COUNT_MAX
from worker_adapters.tests.hostile import LAST_CHUNK, STREAM_HEAD, chunk, events, hostile
from worker_adapters.transport import EngineTransport
from worker_adapters.vllm import VllmClient

pytestmark = pytest.mark.anyio

DONE = b"[DONE]"
REQUEST = GenerationRequest(prompt="x", max_tokens=2, seed=1, correlation_id="c-1")


def token(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": None} | more
    return json.dumps({"choices": [choice]}, ensure_ascii=False).encode()


def usage(**figures: Any) -> bytes:
    told = {"prompt_tokens": 4, "completion_tokens": 2} | figures
    return json.dumps({"choices": [], "usage": told}).encode()


def failure(**error: Any) -> bytes:
    return json.dumps({"error": error}).encode()


LAST = token("", finish_reason="length")
FINISHED = Finished("length", 4, 2, None)


async def streamed(
    transport: EngineTransport, base_url: str, request: GenerationRequest = REQUEST
) -> list[StreamItem]:
    client = VllmClient(transport, base_url, "key")
    async with aclosing(client.stream(request)) as stream:
        return [item async for item in stream]


async def of(transport: EngineTransport, *payloads: bytes) -> list[StreamItem]:
    async with hostile([STREAM_HEAD, *events(*payloads)]) as server:
        return await streamed(transport, server.base_url)


async def test_tokens_come_in_order_and_the_figures_last(transport: EngineTransport) -> None:
    """LO-WRK-131."""
    items = await of(transport, token("a"), token(""), token("b c"), LAST, usage(), DONE)
    assert items == [Token("a"), Token("b c"), FINISHED]


async def test_the_last_token_may_bring_the_reason(transport: EngineTransport) -> None:
    items = await of(transport, token("a", finish_reason="length"), usage(), DONE)
    assert items == [Token("a"), FINISHED]


async def test_a_chat_is_read_from_its_deltas(transport: EngineTransport) -> None:
    first = b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}'
    second = b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}'
    items = await of(transport, first, second, usage(), DONE)
    assert items == [Token("a"), Finished("stop", 4, 2, None)]


async def test_the_size_of_the_prompt_comes_before_the_first_token(
    transport: EngineTransport,
) -> None:
    """LO-WRK-018."""
    told = json.loads(token("a")) | {"usage": {"prompt_tokens": 4, "completion_tokens": 1}}
    items = await of(transport, json.dumps(told).encode(), token("b"), LAST, usage(), DONE)
    assert items == [Progress(4, None, 4), Token("a"), Token("b"), FINISHED]


async def test_what_was_cached_is_told(transport: EngineTransport) -> None:
    """LO-WRK-095."""
    cached = usage(prompt_tokens_details={"cached_tokens": 3})
    assert await of(transport, LAST, cached, DONE) == [Finished("length", 4, 2, 3)]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"finish_reason": "stop", "stop_reason": None}, "stop"),
        ({"finish_reason": "stop", "stop_reason": 2}, "stop"),
        ({"finish_reason": "stop", "stop_reason": "\n"}, "stop_string"),
        ({"finish_reason": "length"}, "length"),
    ],
)
async def test_every_way_to_finish_has_its_reason(
    transport: EngineTransport, told: dict[str, Any], reason: str
) -> None:
    (end,) = await of(transport, token("", **told), usage(), DONE)
    assert isinstance(end, Finished)
    assert end.finish_reason == reason


BROKEN: dict[str, tuple[list[bytes], type[EngineError]]] = {
    "done alone": ([DONE], EngineProtocolError),
    "done without a reason": ([token("a"), usage(), DONE], EngineProtocolError),
    "done without figures": ([token("a"), LAST, DONE], EngineProtocolError),
    "no done": ([token("a"), LAST, usage()], EngineProtocolError),
    "two ends": ([LAST, usage(), DONE, DONE], EngineProtocolError),
    "two reasons": ([LAST, LAST, usage(), DONE], EngineProtocolError),
    "text after the reason": ([LAST, token("a"), usage(), DONE], EngineProtocolError),
    "a token after the end": ([LAST, usage(), DONE, token("a")], EngineProtocolError),
    "two texts": ([b'{"choices":[{"text":"a"},{"text":"b"}]}'], EngineProtocolError),
    "no choices": ([b'{"content":"a"}', DONE], EngineProtocolError),
    "no json": ([b"{nope"], EngineProtocolError),
    "half a character": ([b'{"choices":[{"text":"\xc3"}]}'], EngineProtocolError),
    "too deep": ([b'{"choices":[],"x":' + b"[" * 100_000], EngineProtocolError),
    "an unknown reason": ([token("", finish_reason="tired")], EngineProtocolError),
    "tools nobody asked for": ([token("", finish_reason="tool_calls")], EngineProtocolError),
    "aborted": ([token("a"), token("", finish_reason="abort"), usage(), DONE], EngineFailed),
    "filtered": ([token("", finish_reason="content_filter"), usage(), DONE], EngineFailed),
    "negative figure": ([LAST, usage(prompt_tokens=-1), DONE], EngineProtocolError),
    "huge figure": ([LAST, usage(completion_tokens=COUNT_MAX + 1), DONE], EngineProtocolError),
    "more cached than sent": (
        [LAST, usage(prompt_tokens_details={"cached_tokens": 5}), DONE],
        EngineProtocolError,
    ),
    "error before done": ([token("a"), failure(message="m", code=500), DONE], EngineFailed),
    "error after all": ([LAST, usage(), failure(message="m", code=500), DONE], EngineFailed),
    "error without a code": ([failure(message="m"), DONE], EngineFailed),
    "error of no shape": ([b'{"error":"oh"}', DONE], EngineFailed),
    "refused within": ([failure(message="m", code=400), DONE], EngineRefused),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_done_alone_is_no_success(transport: EngineTransport, case: str) -> None:
    """LO-WRK-131, LO-WRK-007."""
    payloads, expected = BROKEN[case]
    with pytest.raises(EngineError) as caught:
        await of(transport, *payloads)
    assert type(caught.value) is expected


async def test_a_context_that_overflows_within_a_stream_is_told_as_such(
    transport: EngineTransport,
) -> None:
    with pytest.raises(EngineRefused) as caught:
        await of(transport, failure(message="m", param="input_tokens", code=400), DONE)
    assert caught.value.code is ErrorCode.CONTEXT_EXCEEDED


async def test_text_survives_one_byte_slices(transport: EngineTransport) -> None:
    """LO-WRK-005."""
    text = "a\u2028b\x85c né😀\x0b"
    wire = b"".join(b"data: %s\r\n\r\n" % part for part in (token(text), LAST, usage(), DONE))
    slices = [chunk(wire[i : i + 1]) for i in range(len(wire))]
    async with hostile([STREAM_HEAD, *slices, LAST_CHUNK]) as server:
        assert await streamed(transport, server.base_url) == [Token(text), FINISHED]


def sent(requests: list[bytes]) -> tuple[str, dict[str, Any]]:
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head
    assert b"X-Correlation-Id: c-1" in head
    return head.split(b" ")[1].decode(), json.loads(body)


async def asked(
    transport: EngineTransport, request: GenerationRequest
) -> tuple[str, dict[str, Any]]:
    async with hostile([STREAM_HEAD, *events(LAST, usage(), DONE)]) as server:
        await streamed(transport, server.base_url, request)
    return sent(server.requests)


async def test_a_plain_request_sends_no_sampling_field(transport: EngineTransport) -> None:
    """LO-WRK-132: none of them leaves the engine's own default."""
    path, body = await asked(transport, REQUEST)
    assert path == "/v1/completions"
    assert body == {
        "prompt": "x",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 2,
        "seed": 1,
    }


async def test_everything_that_is_wished_is_sent(transport: EngineTransport) -> None:
    """LO-WRK-132."""
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
    }
    chat = GenerationRequest(
        messages=(Message(role="user", content="hi"),),
        max_tokens=2,
        seed=1,
        stop=("a", "b"),
        correlation_id="c-1",
        json_schema={"type": "object"},
        **fields,
    )
    path, body = await asked(transport, chat)
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert "prompt" not in body
    assert {name: body[name] for name in fields} == fields
    assert body["stop"] == ["a", "b"]
    assert body["structured_outputs"] == {"json": {"type": "object"}}


async def test_a_grammar_is_passed_through(transport: EngineTransport) -> None:
    """LO-WRK-132."""
    request = GenerationRequest(
        prompt="x", max_tokens=2, seed=1, correlation_id="c-1", grammar="root ::= [0-9]"
    )
    _, body = await asked(transport, request)
    assert body["structured_outputs"] == {"grammar": "root ::= [0-9]"}


async def test_each_request_that_forbids_the_cache_has_a_salt_of_its_own(
    transport: EngineTransport,
) -> None:
    """LO-WRK-133."""
    cold = GenerationRequest(
        prompt="x", max_tokens=2, seed=1, correlation_id="c-1", cache_prompt=False
    )
    salts = {(await asked(transport, cold))[1]["cache_salt"] for _ in range(3)}
    assert len(salts) == 3
    assert all(len(salt) >= 16 for salt in salts)
