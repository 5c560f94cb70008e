"""The client of Triton, against servers that speak its dialect, and worse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.tasks import Message
from worker_adapters.base import Finished, GenerationRequest, StreamItem, Token
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineLost,
    EngineProtocolError,
    EngineRefused,
)
from worker_adapters.tests.hostile import STREAM_HEAD, answer, chunk, events, hostile
from worker_adapters.transport import EngineTransport
from worker_adapters.triton import TritonClient
from worker_adapters.triton_dialect import TENSORS, TextModel, generate_body
from worker_adapters.triton_metrics import Figures, read_figures

TEXT = ["text_input", "max_tokens"]
COUNTS = ["num_input_tokens", "num_output_tokens"]
TRTLLM = frozenset(
    {
        *("text_input", "max_tokens", "bad_words", "stop_words", "end_id", "pad_id", "top_k"),
        *("top_p", "temperature", "repetition_penalty", "min_length", "presence_penalty"),
        *("frequency_penalty", "random_seed", "return_log_probs", "stream", "beam_width"),
        *("exclude_input_in_output", "return_num_input_tokens"),
    }
)
"""Inputs of TensorRT-LLM's own models."""


def request_of(**fields: Any) -> GenerationRequest:
    given: dict[str, Any] = {"max_tokens": 2, "seed": 1, "correlation_id": "c-1"}
    if "messages" not in fields:
        given["prompt"] = "x"
    return GenerationRequest(**(given | fields))


def model(inputs: Sequence[str] = TEXT, outputs: Sequence[str] = ("text_output",)) -> bytes:
    described = {
        "name": "m",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [1]} for name in inputs],
        "outputs": [{"name": name, "datatype": "BYTES", "shape": [1]} for name in outputs],
    }
    return answer(200, json.dumps(described).encode())


def index(*names: str) -> bytes:
    ready = [{"name": name, "version": "1", "state": "READY"} for name in names]
    return answer(200, json.dumps([{"name": "idle"}, *ready]).encode())


def config(**fields: Any) -> bytes:
    return answer(200, json.dumps({"name": "m"} | fields).encode())


def routes(*stream: bytes, **described: Any) -> dict[bytes, bytes]:
    return {
        b"/v2": answer(200, b'{"name":"triton","version":"2.51.0"}'),
        b"/v2/repository/index": index("m"),
        b"/v2/models/m": model(**described),
        b"/v2/models/m/config": config(),
        b"/v2/models/m/generate_stream": b"".join(stream),
    }


def text(said: str, **counts: object) -> bytes:
    return json.dumps({"model_name": "m", "text_output": said} | counts).encode()


async def streamed(
    transport: EngineTransport, served: dict[bytes, bytes], **fields: Any
) -> list[StreamItem]:
    async with hostile(served) as server:
        client = TritonClient(transport, server.base_url, None)
        async with aclosing(client.stream(request_of(**fields))) as stream:
            return [item async for item in stream]


@pytest.mark.anyio
@pytest.mark.parametrize(("bound", "reason"), [(2, "length"), (3, "stop")])
async def test_a_stream_ends_with_its_body_and_its_bound_tells_why(
    transport: EngineTransport, bound: int, reason: str
) -> None:
    """LO-WRK-156: pieces are counted where the model counts nothing; nobody counts the prompt."""
    served = routes(STREAM_HEAD, *events(text("a"), text(""), text("b")))
    items = await streamed(transport, served, max_tokens=bound)
    assert items[:-1] == [Token("a"), Token("b")]
    assert items[-1] == Finished(reason, 0, 2, None)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_what_the_model_counts_goes_before(transport: EngineTransport) -> None:
    """LO-WRK-156."""
    pieces = [
        text("a", num_input_tokens=7, num_output_tokens=2, finish_reason="None"),
        text("b", num_input_tokens=7, num_output_tokens=1, finish_reason="stop"),
    ]
    items = await streamed(transport, routes(STREAM_HEAD, *events(*pieces)), max_tokens=3)
    assert items[-1] == Finished("stop", 7, 3, None)


@pytest.mark.anyio
async def test_a_stop_string_that_is_sent_along_is_cut_off_and_told(
    transport: EngineTransport,
) -> None:
    """LO-WRK-150."""
    served = routes(STREAM_HEAD, *events(text("a st"), text("op")), inputs=[*TEXT, "stop_words"])
    items = await streamed(transport, served, stop=(" stop",), max_tokens=9)
    assert items == [Token("a"), Finished("stop_string", 0, 2, None)]


BROKEN: dict[str, tuple[list[bytes], type[EngineError]]] = {
    "cut within an event": (
        [STREAM_HEAD, chunk(b"data: " + text("a") + b"\n\ndata: {"), b"0\r\n\r\n"],
        EngineProtocolError,
    ),
    "cut before an event's end": (
        [STREAM_HEAD, chunk(b"data: " + text("a") + b"\n"), b"0\r\n\r\n"],
        EngineProtocolError,
    ),
    "no end of the body": ([STREAM_HEAD, chunk(b"data: " + text("a") + b"\n\n")], EngineLost),
    "negative counts": (
        [STREAM_HEAD, *events(text("a", num_input_tokens=-1))],
        EngineProtocolError,
    ),
    "counts beyond measure": (
        [STREAM_HEAD, *events(text("a", num_output_tokens=2**40))],
        EngineProtocolError,
    ),
    "an end of another dialect": (
        [STREAM_HEAD, *events(text("a"), b"[DONE]")],
        EngineProtocolError,
    ),
    "no text": ([STREAM_HEAD, *events(b'{"choices":[]}')], EngineProtocolError),
    "error later": ([STREAM_HEAD, *events(text("a"), b'{"error":"boom"}')], EngineFailed),
    "error of no shape": ([STREAM_HEAD, *events(b'{"error":{"a":1}}')], EngineFailed),
    "error first": (
        [answer(400, b'data: {"error":"boom"}\n\n', kind=b"text/event-stream")],
        EngineFailed,
    ),
    "error under 200": (
        [answer(200, b'{"error":"generate expects model to produce exactly 1 response"}')],
        EngineProtocolError,
    ),
    "html": ([answer(200, b"<html>", kind=b"text/html")], EngineProtocolError),
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_stream_is_never_taken_for_a_finished_one(
    transport: EngineTransport, case: str
) -> None:
    """LO-WRK-156, LO-WRK-007."""
    writes, expected = BROKEN[case]
    with pytest.raises(EngineError) as caught:
        await streamed(transport, routes(*writes))
    assert type(caught.value) is expected


def trtllm() -> TextModel:
    return TextModel("m", TRTLLM, frozenset({"text_output", *COUNTS}))


def bare() -> TextModel:
    return TextModel("m", frozenset(TEXT), frozenset({"text_output", *COUNTS}))


def test_what_the_model_reads_is_sent_under_its_own_names() -> None:
    """LO-WRK-157."""
    request = request_of(
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        stop=("a", "b"),
    )
    assert json.loads(generate_body(trtllm(), request)) == {
        "text_input": "x",
        "max_tokens": 2,
        "stream": True,
        "exclude_input_in_output": True,
        "return_num_input_tokens": True,
        "random_seed": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "stop_words": ["a", "b"],
    }


def test_nothing_else_is_sent() -> None:
    """LO-WRK-157: a seed least of all, which every request has."""
    neutral = request_of(top_p=1.0, top_k=0, repetition_penalty=1.0)
    assert json.loads(generate_body(bare(), neutral)) == {"text_input": "x", "max_tokens": 2}


@pytest.mark.parametrize("feature", sorted(set(TENSORS) - {Feature.SEED}))
def test_what_the_model_does_not_read_is_refused_by_name(feature: Feature) -> None:
    """LO-WRK-097, LO-WRK-157."""
    wish: dict[str, Any] = {feature.value: ("a",) if feature is Feature.STOP else 0.5}
    with pytest.raises(EngineRefused, match=f"`{feature}`") as caught:
        generate_body(bare(), request_of(**wish))
    assert caught.value.code is ErrorCode.INVALID_PARAMS
    declared = TextModel("m", bare().inputs | {TENSORS[feature][0]}, frozenset())
    assert TENSORS[feature][0] in json.loads(generate_body(declared, request_of(**wish)))


def test_a_model_without_a_bound_is_refused() -> None:
    """LO-WRK-157."""
    unbounded = TextModel("m", frozenset({"text_input"}), frozenset())
    with pytest.raises(EngineRefused, match="max_tokens"):
        generate_body(unbounded, request_of())


@pytest.mark.parametrize("wish", [{"json_schema": {"type": "object"}}, {"grammar": "x"}])
def test_structured_output_is_refused(wish: dict[str, Any]) -> None:
    """LO-WRK-097."""
    with pytest.raises(EngineRefused, match=next(iter(wish))):
        generate_body(trtllm(), request_of(**wish))


@pytest.mark.anyio
async def test_a_chat_is_refused_before_anything_is_asked(transport: EngineTransport) -> None:
    """LO-WRK-097."""
    async with hostile({}) as server:
        client = TritonClient(transport, server.base_url, None)
        chat = request_of(messages=(Message(role="user", content="Hi"),))
        with pytest.raises(EngineRefused, match="chat"):
            await anext(client.stream(chat))
        with pytest.raises(EngineRefused, match="tokenizer"):
            await client.count_prompt(request_of())
    assert server.requests == []


@pytest.mark.anyio
async def test_the_model_is_the_one_that_makes_text_of_text(transport: EngineTransport) -> None:
    """LO-WRK-158: an ensemble's parts are ready beside it."""
    served = routes(STREAM_HEAD, *events(text("a")))
    served[b"/v2/repository/index"] = index("part", "m")
    served[b"/v2/models/part"] = model(["input_ids"], ["output_ids"])
    async with hostile(served) as server:
        client = TritonClient(transport, server.base_url, None)
        assert (await client.observe()).model_alias == "m"
        before = len(server.requests)
        await client.observe()
    asked = b"".join(server.requests[before:])
    assert b"/v2/repository" not in asked, "what it found is kept"


@pytest.mark.anyio
async def test_no_model_ready_is_busy_and_two_are_nobodys(transport: EngineTransport) -> None:
    """LO-WRK-158."""
    served = routes()
    served[b"/v2/repository/index"] = index()
    async with hostile(served) as server:
        with pytest.raises(EngineBusy):
            await TritonClient(transport, server.base_url, None).observe()
    served[b"/v2/repository/index"] = index("m", "n")
    served[b"/v2/models/n"] = model().replace(b'"m"', b'"n"')
    async with hostile(served) as server:
        with pytest.raises(EngineProtocolError, match="m, n"):
            await TritonClient(transport, server.base_url, None).capabilities()


@pytest.mark.anyio
async def test_capabilities_are_what_the_model_reads(transport: EngineTransport) -> None:
    """LO-WRK-096, LO-WRK-157."""
    served = routes(inputs=sorted(TRTLLM))
    version = {"tensorrt_llm_version": {"string_value": "0.20.0"}}
    served[b"/v2/models/m/config"] = config(parameters=version)
    async with hostile(served) as server:
        can = await TritonClient(transport, server.base_url, None).capabilities()
    assert can.trtllm_version == "0.20.0"
    assert can.strict_refusal
    assert can.features == {
        *(Feature.CANCEL, Feature.TEMPERATURE, Feature.TOP_P, Feature.TOP_K, Feature.SEED),
        *(Feature.STOP, Feature.REPETITION_PENALTY, Feature.PRESENCE_PENALTY),
        Feature.FREQUENCY_PENALTY,
    }


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("described", "ctx", "slots"),
    [
        ({}, 2**31 - 1, 1),
        ({"instance_group": [{"count": 2}, {"count": 1}]}, 2**31 - 1, 3),
        ({"instance_group": [{"count": 2}], "max_batch_size": 8}, 2**31 - 1, 16),
        ({"backend": "vllm", "instance_group": [{"count": 1}]}, 2**31 - 1, 2**31 - 1),
        ({"parameters": {"max_seq_len": {"string_value": "512"}}}, 512, 1),
        ({"parameters": {"max_seq_len": {"string_value": "0"}}}, 1, 1),
        ({"parameters": {"max_seq_len": {"string_value": "9" * 5000}}}, 2**31 - 1, 1),
        ({"parameters": {"max_seq_len": {"string_value": "many"}}}, 2**31 - 1, 1),
    ],
)
async def test_its_size_is_its_configuration(
    transport: EngineTransport, described: dict[str, Any], ctx: int, slots: int
) -> None:
    """LO-WRK-159."""
    served = routes()
    served[b"/v2/models/m/config"] = config(**described)
    async with hostile(served) as server:
        seen = await TritonClient(transport, server.base_url, None).observe()
    assert (seen.engine_version, seen.ctx, seen.slots_total) == ("2.51.0", ctx, slots)
    assert seen.slots_busy is seen.work_done is seen.kv_cache_usage is None


def test_the_figures_of_plain_triton_are_its_queue() -> None:
    """LO-WRK-159."""
    page = b'nv_inference_pending_request_count{model="m",version="1"} 3\n'
    assert read_figures(page) == Figures(None, 3, None)
    assert read_figures(b"<html>") == Figures()


def test_the_figures_of_tensorrt_llm_are_told_apart_by_their_label() -> None:
    """LO-WRK-159."""
    page = b"""nv_trt_llm_request_metrics{model="t",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="t",request_type="max",version="1"} 512
nv_trt_llm_request_metrics{model="t",request_type="active",version="1"} 7
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="t",version="1"} 0.6
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="t",version="1"} 2000
nv_inference_pending_request_count{model="t",version="1"} 9
"""
    assert read_figures(page) == Figures(7, 3, 0.6)


@pytest.mark.anyio
async def test_it_never_proves_who_it_is(transport: EngineTransport) -> None:
    """LO-WRK-160."""
    async with hostile(routes()) as server:
        assert not await TritonClient(transport, server.base_url, "key").prove_identity()
    assert server.requests == []
