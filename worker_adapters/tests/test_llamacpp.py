"""The client of llama.cpp, against a server that says whatever it likes."""

from __future__ import annotations

import json
from contextlib import aclosing

import pytest

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
    EngineUnreachable,
)
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.llamacpp_dialect import answered_error
from worker_adapters.tests.hostile import (
    LAST_CHUNK,
    STREAM_HEAD,
    answer,
    chunk,
    events,
    hostile,
)
from worker_adapters.tests.ports import free_port
from worker_adapters.transport import EngineTransport

FINAL = (
    b'{"content":"","stop":true,"stop_type":"limit","tokens_evaluated":4,"tokens_predicted":2,'
    b'"timings":{"cache_n":3},"id_slot":6}'
)
FINISHED = Finished("length", 4, 2, 3, 6)
REQUEST = GenerationRequest(prompt="x", max_tokens=2, seed=1, correlation_id="c-1")


def token(text: str) -> bytes:
    return json.dumps({"content": text, "stop": False}, ensure_ascii=False).encode()


async def streamed(
    transport: EngineTransport, base_url: str, request: GenerationRequest = REQUEST
) -> list[StreamItem]:
    client = LlamaCppClient(transport, base_url, "key")
    async with aclosing(client.stream(request)) as stream:
        return [event async for event in stream]


@pytest.mark.anyio
async def test_tokens_come_in_order_and_the_figures_last(transport: EngineTransport) -> None:
    """LO-WRK-002."""
    async with hostile([STREAM_HEAD, *events(token("a"), token("b"), FINAL)]) as server:
        assert await streamed(transport, server.base_url) == [Token("a"), Token("b"), FINISHED]


@pytest.mark.anyio
async def test_text_survives_one_byte_slices_and_odd_line_separators(
    transport: EngineTransport,
) -> None:
    """LO-WRK-004, LO-WRK-005."""
    text = "a\u2028b\x85c\u2029 né😀\x0b"
    wire = b"\xef\xbb\xbfdata: " + token(text) + b"\r\n\r\n: still here\r\n\r\n"
    wire += b"data:" + token(text) + b"\r\rdata: " + FINAL + b"\n\r\n"
    slices = [chunk(wire[i : i + 1]) for i in range(len(wire))]
    async with hostile([STREAM_HEAD, *slices, LAST_CHUNK]) as server:
        assert await streamed(transport, server.base_url) == [Token(text)] * 2 + [FINISHED]


@pytest.mark.anyio
async def test_comments_and_empty_text_are_no_tokens(transport: EngineTransport) -> None:
    """LO-ORC-069."""
    body = [chunk(b": ping\n\n"), *events(token(""), token("a"), FINAL)]
    async with hostile([STREAM_HEAD, *body]) as server:
        assert await streamed(transport, server.base_url) == [Token("a"), FINISHED]


@pytest.mark.anyio
async def test_foreign_event_names_are_ignored(transport: EngineTransport) -> None:
    """LO-ORC-069."""
    wire = b"event: execute\nid: 9\nretry: 1\ndata: " + token("a") + b"\n\n"
    async with hostile([STREAM_HEAD, chunk(wire), *events(FINAL)]) as server:
        assert await streamed(transport, server.base_url) == [Token("a"), FINISHED]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("stop_type", "reason"), [("eos", "stop"), ("limit", "length"), ("word", "stop_string")]
)
async def test_every_stop_type_has_its_finish_reason(
    transport: EngineTransport, stop_type: str, reason: str
) -> None:
    final = FINAL.replace(b"limit", stop_type.encode())
    async with hostile([STREAM_HEAD, *events(final)]) as server:
        (finished,) = await streamed(transport, server.base_url)
    assert isinstance(finished, Finished)
    assert finished.finish_reason == reason


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("told", "slot"), [(b'"id_slot":0', 0), (b'"id_slot":-1', None), (b'"other":1', None)]
)
async def test_the_slot_that_served_is_told_with_the_figures(
    transport: EngineTransport, told: bytes, slot: int | None
) -> None:
    """LO-WRK-114."""
    async with hostile([STREAM_HEAD, *events(FINAL.replace(b'"id_slot":6', told))]) as server:
        (finished,) = await streamed(transport, server.base_url)
    assert finished == Finished("length", 4, 2, 3, slot)


HTML = answer(200, b"<html>hello</html>", kind=b"text/html")
BROKEN: dict[str, tuple[list[bytes], type[EngineError] | tuple[type[EngineError], ...]]] = {
    "html with 200": ([HTML], EngineProtocolError),
    "json with 200": ([answer(200, b"{}")], EngineProtocolError),
    "bad json": ([STREAM_HEAD, *events(b"{nope")], EngineProtocolError),
    "half a character": ([STREAM_HEAD, *events(b'{"content":"\xc3"}')], EngineProtocolError),
    "lone surrogate": ([STREAM_HEAD, *events(b'{"content":"\\ud800"}')], EngineProtocolError),
    "too deep": (
        [STREAM_HEAD, *events(b'{"content":"a","x":' + b"[" * 100_000)],
        EngineProtocolError,
    ),
    "not an object": ([STREAM_HEAD, *events(b"[1]")], EngineProtocolError),
    "no content": ([STREAM_HEAD, *events(b'{"choices":[]}')], EngineProtocolError),
    "an end of another dialect": (
        [STREAM_HEAD, *events(token("a"), b"[DONE]")],
        EngineProtocolError,
    ),
    "no final event": ([STREAM_HEAD, *events(token("a"))], EngineProtocolError),
    "two finals in a read": (
        [STREAM_HEAD + b"".join(events(FINAL, FINAL))],
        EngineProtocolError,
    ),
    "two finals": ([STREAM_HEAD, *events(FINAL, FINAL)], EngineProtocolError),
    "a token after the final": ([STREAM_HEAD, *events(FINAL, token("a"))], EngineProtocolError),
    "unknown stop type": (
        [STREAM_HEAD, *events(FINAL.replace(b"limit", b"tired"))],
        EngineProtocolError,
    ),
    "endless event": ([STREAM_HEAD] + [chunk(b"x" * 65536)] * 17, EngineProtocolError),
    "bad chunk": ([STREAM_HEAD, b"zz\r\n\r\n"], (EngineProtocolError, EngineLost)),
    "cut chunk": ([STREAM_HEAD, chunk(b"data: " + token("a") + b"\n\n"), b"ff\r\nda"], EngineLost),
    "cut between chunks": ([STREAM_HEAD, chunk(b"data: {")], EngineLost),
    "no answer": ([], EngineLost),
    "half a head": ([b"HTTP/1.1 200 OK\r\nContent-"], EngineLost),
    "error within": (
        [STREAM_HEAD, *events(token("a"), b'{"error":{"code":500,"message":"Compute error."}}')],
        EngineFailed,
    ),
    "error of no shape": ([STREAM_HEAD, *events(b'{"error":"oh"}')], EngineFailed),
    "context within": (
        [
            STREAM_HEAD,
            *events(
                b'{"error":{"code":400,"message":"m","type":"exceed_context_size_error"}}',
            ),
        ],
        EngineRefused,
    ),
    "redirect": ([answer(307, b"", b"Location: /x")], EngineProtocolError),
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_stream_is_never_taken_for_a_finished_one(
    transport: EngineTransport, case: str
) -> None:
    """LO-WRK-002, LO-WRK-006, LO-WRK-007."""
    writes, expected = BROKEN[case]
    async with hostile(writes) as server:
        with pytest.raises(expected):
            await streamed(transport, server.base_url)


@pytest.mark.anyio
async def test_a_reset_connection_is_lost(
    transport: EngineTransport,
) -> None:
    """LO-WRK-007."""
    async with hostile([STREAM_HEAD, events(token("a"))[0]], end="reset") as server:
        with pytest.raises(EngineLost):
            await streamed(transport, server.base_url)


@pytest.mark.anyio
async def test_a_connection_that_breaks_after_the_final_event_loses_nothing(
    transport: EngineTransport,
) -> None:
    async with hostile([STREAM_HEAD, events(FINAL)[0]], end="close") as server:
        assert await streamed(transport, server.base_url) == [FINISHED]


@pytest.mark.anyio
async def test_a_connection_that_stays_open_after_the_final_event_is_not_waited_for(
    transport: EngineTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_adapters.event_stream.END_TIMEOUT_S", 0.05)
    async with hostile([STREAM_HEAD, events(FINAL)[0]], end="hang") as server:
        assert await streamed(transport, server.base_url) == [FINISHED]


@pytest.mark.anyio
async def test_nobody_at_home_is_unreachable(transport: EngineTransport) -> None:
    with pytest.raises(EngineUnreachable):
        await streamed(transport, f"http://127.0.0.1:{free_port()}")


def error_body(code: int, kind: str = "", message: str = "why") -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "type": kind}}).encode()


STATUSES: list[tuple[int, bytes, type[EngineError], ErrorCode]] = [
    (400, error_body(400), EngineRefused, ErrorCode.INVALID_PARAMS),
    (400, error_body(400, "exceed_context_size_error"), EngineRefused, ErrorCode.CONTEXT_EXCEEDED),
    (400, b"<html>", EngineRefused, ErrorCode.INVALID_PARAMS),
    (
        *(500, error_body(500, message="input (9 tokens) is too large to process. increase")),
        *(EngineRefused, ErrorCode.CONTEXT_EXCEEDED),
    ),
    (413, b"", EngineRefused, ErrorCode.INVALID_PARAMS),
    (401, error_body(401), EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
    (404, error_body(404), EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
    (429, b"", EngineBusy, ErrorCode.POOL_UNREADY),
    (500, error_body(500), EngineFailed, ErrorCode.WORKER_RESET),
    (501, error_body(501), EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
    (502, b"", EngineFailed, ErrorCode.WORKER_RESET),
    (503, error_body(503, "unavailable_error"), EngineBusy, ErrorCode.POOL_UNREADY),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "body", "kind", "code"), STATUSES)
async def test_every_refusal_has_its_error(
    transport: EngineTransport, status: int, body: bytes, kind: type[EngineError], code: ErrorCode
) -> None:
    async with hostile([answer(status, body)]) as server:
        with pytest.raises(EngineError) as caught:
            await streamed(transport, server.base_url)
    assert (type(caught.value), caught.value.code) == (kind, code)


@pytest.mark.parametrize("status", [*range(201, 208), *range(300, 600)])
def test_no_status_is_without_a_meaning(status: int) -> None:
    assert isinstance(answered_error(status, b""), EngineError)


@pytest.mark.parametrize(
    ("header", "wait_ms"),
    [("2", 2000), (None, None), ("soon", None), ("-1", None), ("²", None), ("9" * 5000, 3_600_000)],
)
def test_a_wait_is_read_only_where_it_is_a_number_of_seconds(
    header: str | None, wait_ms: int | None
) -> None:
    error = answered_error(503, b"", header)
    assert isinstance(error, EngineBusy)
    assert error.retry_after_ms == wait_ms


@pytest.mark.anyio
async def test_only_known_fields_leave_and_unset_ones_do_not(transport: EngineTransport) -> None:
    """LO-WRK-010, LO-WRK-120, LO-ORC-046."""
    request = GenerationRequest(
        prompt="p",
        max_tokens=3,
        seed=5,
        temperature=0.0,
        top_k=0,
        min_p=0.1,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.4,
        grammar="root ::= [0-9]",
        stop=("end",),
        cache_prompt=False,
        slot=0,
        correlation_id="c-9",
    )
    async with hostile([STREAM_HEAD, *events(FINAL)]) as server:
        await streamed(transport, server.base_url, request)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    sent = json.loads(body)
    del sent["response_fields"]
    assert sent == {
        "prompt": "p",
        "stream": True,
        "return_progress": True,
        "n_predict": 3,
        "seed": 5,
        "temperature": 0.0,
        "top_k": 0,
        "min_p": 0.1,
        "repeat_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "grammar": "root ::= [0-9]",
        "stop": ["end"],
        "cache_prompt": False,
        "id_slot": 0,
    }
    assert b"X-Correlation-Id: c-9" in head
    assert b"Authorization: Bearer key" in head


@pytest.mark.anyio
async def test_a_server_that_takes_any_key_proves_nothing(transport: EngineTransport) -> None:
    """LO-WRK-014."""
    async with hostile([answer(200, b"{}")]) as server:
        assert not await LlamaCppClient(transport, server.base_url, "key").prove_identity()


@pytest.mark.anyio
async def test_without_a_key_nothing_is_proved_and_nothing_asked(
    transport: EngineTransport,
) -> None:
    """LO-WRK-014."""
    async with hostile([answer(200, b"{}")]) as server:
        assert not await LlamaCppClient(transport, server.base_url, None).prove_identity()
    assert server.requests == []


@pytest.mark.anyio
@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"total_slots":"two"}', b'{"total_slots":1}'])
async def test_a_foreign_answer_is_no_observation(transport: EngineTransport, body: bytes) -> None:
    async with hostile([answer(200, body)]) as server:
        with pytest.raises(EngineProtocolError):
            await LlamaCppClient(transport, server.base_url, "key").observe()


def test_a_request_is_either_a_prompt_or_a_chat() -> None:
    chat = (Message(role="user", content="x"),)
    for prompt, messages in ((None, None), ("x", chat)):
        with pytest.raises(ValueError, match="either"):
            GenerationRequest(
                prompt=prompt, messages=messages, max_tokens=1, seed=1, correlation_id="c"
            )
