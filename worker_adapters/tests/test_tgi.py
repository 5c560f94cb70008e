"""The client of TGI, against servers that speak its published contract, and worse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from contracts.errors import ErrorCode
from contracts.tasks import SEED_MAX, Message
from worker_adapters.base import Finished, GenerationRequest, StreamItem, Token
from worker_adapters.errors import EngineError, EngineProtocolError, EngineRefused
from worker_adapters.tests.hostile import STREAM_HEAD, answer, events, hostile
from worker_adapters.tgi import TgiClient
from worker_adapters.tgi_dialect import chat_body, generate_body
from worker_adapters.transport import EngineTransport

CHAT = (Message(role="user", content="Hi"),)
FINISHED = Finished("length", 4, 2, None)
INFO = {
    "model_id": "/models/m",
    "max_concurrent_requests": 3,
    "max_total_tokens": 2048,
    "version": "3.3.6-dev0",
    "sha": "db931fcf00112233445566778899",
}
PAGE = b"""# TYPE tgi_queue_size gauge
tgi_queue_size 4
tgi_batch_current_size 2
tgi_batch_inference_count{method="prefill"} 7
tgi_batch_inference_count{method="decode"} 30
tgi_batch_inference_success{method="decode"} 29
"""


def request_of(**fields: Any) -> GenerationRequest:
    given: dict[str, Any] = {"max_tokens": 2, "seed": 1, "correlation_id": "c-1"}
    if "messages" not in fields:
        given["prompt"] = "x"
    return GenerationRequest(**(given | fields))


def token(text: str, *, special: bool = False) -> bytes:
    event = {"index": 1, "token": {"id": 7, "text": text, "logprob": -0.5, "special": special}}
    return json.dumps(event | {"generated_text": None, "details": None}).encode()


def final(reason: str = "length", text: str = "", *, special: bool = True) -> bytes:
    event = json.loads(token(text, special=special))
    details = {"finish_reason": reason, "generated_tokens": 2, "seed": 1, "input_length": 4}
    return json.dumps(event | {"generated_text": "ab", "details": details}).encode()


def chunk(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": None}).encode()


USAGE = b'{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}'


async def streamed(
    transport: EngineTransport, payloads: Sequence[bytes], **fields: Any
) -> list[StreamItem]:
    async with hostile([STREAM_HEAD, *events(*payloads)]) as server:
        client = TgiClient(transport, server.base_url, "key")
        async with aclosing(client.stream(request_of(**fields))) as stream:
            return [item async for item in stream]


@pytest.mark.anyio
async def test_the_text_of_special_tokens_is_no_text(transport: EngineTransport) -> None:
    """LO-WRK-151."""
    payloads = [token("a"), token("<s>", special=True), token(""), final(text="<|im_end|>")]
    assert await streamed(transport, payloads) == [Token("a"), FINISHED]


@pytest.mark.anyio
async def test_the_last_event_may_hold_text(transport: EngineTransport) -> None:
    """LO-WRK-151."""
    payloads = [token("a"), final(text="b", special=False)]
    assert await streamed(transport, payloads) == [Token("a"), Token("b"), FINISHED]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "reason"),
    [("length", "length"), ("eos_token", "stop"), ("stop_sequence", "stop_string")],
)
async def test_every_reason_to_stop_has_its_finish_reason(
    transport: EngineTransport, said: str, reason: str
) -> None:
    """LO-WRK-090."""
    (finished,) = await streamed(transport, [final(said)])
    assert isinstance(finished, Finished)
    assert finished.finish_reason == reason


@pytest.mark.anyio
async def test_the_stop_string_that_tgi_sends_along_is_cut_off(transport: EngineTransport) -> None:
    """LO-WRK-150."""
    payloads = [token("a"), token(" st"), final("stop_sequence", "op", special=False)]
    items = await streamed(transport, payloads, stop=(" stop",))
    assert items == [Token("a"), Finished("stop_string", 4, 2, None)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "payloads",
    [
        [token("a")],
        [token("a"), b"[DONE]"],
        [final("tired")],
        [token("a").replace(b'"generated_text": null', b'"generated_text": "a"')],
        [final(), token("a")],
        [final(), final()],
        [b"{}"],
        [b'{"token":{"special":false}}'],
        [final().replace(b'"input_length": 4', b'"input_length": -1')],
        [final().replace(b'"generated_tokens": 2', b'"generated_tokens": 99999999999')],
        [final().replace(b'"input_length": 4', b'"x": 4')],
    ],
)
async def test_a_stream_is_complete_only_after_its_details(
    transport: EngineTransport, payloads: list[bytes]
) -> None:
    """LO-WRK-151, LO-WRK-007."""
    with pytest.raises(EngineProtocolError):
        await streamed(transport, payloads)


@pytest.mark.anyio
async def test_a_chat_is_complete_after_its_reason_its_figures_and_done(
    transport: EngineTransport,
) -> None:
    """LO-WRK-151."""
    payloads = [chunk("a"), chunk("b"), chunk("", "stop"), USAGE, b"[DONE]"]
    items = await streamed(transport, payloads, messages=CHAT)
    assert items == [Token("a"), Token("b"), Finished("stop", 4, 2, None)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "payloads",
    [
        [chunk("a"), chunk("", "stop"), USAGE],
        [chunk("a"), USAGE, b"[DONE]"],
        [chunk("a"), chunk("", "stop"), b"[DONE]"],
        [chunk("", "stop"), USAGE, b"[DONE]", b"[DONE]"],
        [b"{}", b"[DONE]"],
        [b"[DONE]"],
    ],
)
async def test_done_alone_is_no_end_of_a_chat(
    transport: EngineTransport, payloads: list[bytes]
) -> None:
    """LO-WRK-151, LO-WRK-007."""
    with pytest.raises(EngineProtocolError):
        await streamed(transport, payloads, messages=CHAT)


@pytest.mark.anyio
async def test_done_after_an_error_is_no_success(transport: EngineTransport) -> None:
    """LO-WRK-092."""
    error = b'{"error":{"message":"no","http_status_code":422}}'
    with pytest.raises(EngineRefused):
        await streamed(transport, [chunk("a"), error, b"[DONE]"], messages=CHAT)


def parameters(**fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(generate_body("x", request_of(**fields)))
    assert body["inputs"] == "x"
    given: dict[str, Any] = body["parameters"]
    assert (given.pop("details"), given.pop("return_full_text")) == (True, False)
    assert given.pop("max_new_tokens") == 2
    return given


def test_what_is_not_wished_for_is_not_said() -> None:
    """LO-WRK-152."""
    assert parameters() == {"seed": 1}


def test_temperature_zero_is_sent_as_no_sampling_at_all() -> None:
    """LO-WRK-152: TGI refuses 0, and samples as soon as any of these is there."""
    assert parameters(temperature=0.0, top_p=0.5, top_k=3) == {"do_sample": False}


def test_temperature_one_samples() -> None:
    """LO-WRK-152: which TGI does not, unless told to."""
    sampled = parameters(temperature=1.0, top_p=0.5, top_k=3)
    expected = {"do_sample": True, "temperature": 1.0, "top_p": 0.5, "top_k": 3, "seed": 1}
    assert sampled == expected


def test_values_that_change_nothing_are_left_out() -> None:
    """LO-WRK-152: TGI refuses most of them."""
    neutral = parameters(top_p=1.0, top_k=0, repetition_penalty=1.0, frequency_penalty=0.0)
    assert neutral == {"seed": 1}


def test_no_two_seeds_are_one_seed() -> None:
    """LO-WRK-152: TGI has no seed 0."""
    seeds = [parameters(seed=seed)["seed"] for seed in (0, 1, SEED_MAX)]
    assert 0 not in seeds
    assert len(set(seeds)) == 3


def test_structure_is_passed_through() -> None:
    """LO-WRK-152."""
    schema = {"type": "object"}
    assert parameters(json_schema=schema)["grammar"] == {"type": "json", "value": schema}
    assert parameters(grammar="[0-9]+")["grammar"] == {"type": "regex", "value": "[0-9]+"}
    assert parameters(stop=("a", "b"))["stop"] == ["a", "b"]


def test_a_chat_goes_as_it_is() -> None:
    """LO-WRK-012, LO-WRK-152."""
    request = request_of(messages=CHAT, temperature=0.0, top_p=0.9, json_schema={"type": "object"})
    assert json.loads(chat_body(request)) == {
        "model": "tgi",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 2,
        "seed": 1,
        "temperature": 0.0,
        "response_format": {"type": "json", "value": {"type": "object"}},
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("name", "value", "in_a_chat"),
    [
        ("min_p", 0.1, False),
        ("presence_penalty", 0.1, False),
        ("min_p", 0.1, True),
        ("presence_penalty", 0.1, True),
        ("top_k", 5, True),
        ("repetition_penalty", 1.1, True),
    ],
)
def test_what_a_route_has_no_word_for_is_refused_by_name(
    name: str, value: float, in_a_chat: bool
) -> None:
    """LO-WRK-097."""
    fields: dict[str, Any] = {name: value} | ({"messages": CHAT} if in_a_chat else {})
    with pytest.raises(EngineRefused, match=name) as caught:
        chat_body(request_of(**fields)) if in_a_chat else generate_body("x", request_of(**fields))
    assert caught.value.code is ErrorCode.INVALID_PARAMS


def told(info: dict[str, Any] | None = None, health: int = 200) -> dict[bytes, bytes]:
    return {
        b"/health": answer(health, b""),
        b"/info": answer(200, json.dumps(INFO if info is None else info).encode()),
        b"/metrics": answer(200, PAGE, kind=b"text/plain"),
    }


@pytest.mark.anyio
async def test_it_is_observed_by_what_it_says(transport: EngineTransport) -> None:
    """LO-WRK-096, LO-WRK-153."""
    async with hostile(told()) as server:
        seen = await TgiClient(transport, server.base_url, "key").observe()
    assert (seen.engine_version, seen.model_alias) == ("3.3.6-dev0 (db931fcf0011)", "/models/m")
    assert (seen.ctx, seen.slots_total) == (2048, 3)
    assert (seen.slots_busy, seen.requests_waiting, seen.work_done) == (2, 4, 66)
    assert seen.kv_cache_usage is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    "routes",
    [
        told({"model_id": "m"}),
        told(INFO | {"max_concurrent_requests": 0}),
        told(INFO | {"max_total_tokens": -1}),
        told(health=404),
        told(health=503),
    ],
)
async def test_a_foreign_or_sick_server_is_no_observation(
    transport: EngineTransport, routes: dict[bytes, bytes]
) -> None:
    """LO-WRK-096."""
    async with hostile(routes) as server:
        with pytest.raises(EngineError):
            await TgiClient(transport, server.base_url, "key").observe()


@pytest.mark.anyio
async def test_prompts_are_counted_as_their_route_reads_them(transport: EngineTransport) -> None:
    """LO-WRK-019."""
    pieces = [{"id": 1, "text": "a", "start": 0, "stop": 1}] * 3
    chat = {"tokenize_response": pieces * 2, "templated_text": "t"}
    routes = {
        b"/tokenize": answer(200, json.dumps(pieces).encode()),
        b"/chat_tokenize": answer(200, json.dumps(chat).encode()),
    }
    async with hostile(routes) as server:
        client = TgiClient(transport, server.base_url, "key")
        assert await client.count_prompt(request_of()) == 3
        assert await client.count_prompt(request_of(messages=CHAT)) == 6
    assert all(b"Content-Type: application/json" in request for request in server.requests)


@pytest.mark.anyio
async def test_a_server_that_takes_any_key_proves_nothing(transport: EngineTransport) -> None:
    """LO-WRK-014, LO-WRK-098: and is not shown ours."""
    async with hostile({b"/tokenize": answer(200, b"[]")}) as server:
        assert not await TgiClient(transport, server.base_url, "a-secret").prove_identity()
    assert len(server.requests) == 1
    assert b"a-secret" not in server.requests[0]
