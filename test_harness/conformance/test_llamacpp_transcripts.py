"""The adapter reads what real llama.cpp sent, byte for byte, as it was meant."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.tasks import Workload
from test_harness.conformance.asking import finished_of, items_of, request_of, text_of
from test_harness.conformance.recording_llamacpp import CTX, SCHEMA
from test_harness.conformance.transcripts import recorded
from worker_adapters.base import (
    EmbeddingRequest,
    Embeddings,
    Finished,
    Progress,
    Ranking,
    RerankRequest,
    StreamItem,
    Token,
)
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineProtocolError,
    EngineRefused,
)
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.llamacpp_dialect import answered_error
from worker_adapters.tests.hostile import chunk, hostile
from worker_adapters.transport import EngineTransport

RECORDED = recorded("llamacpp")
STREAMS = sorted(name for name in RECORDED if name.startswith("completion"))
TEXTS = EmbeddingRequest(inputs=("The river", "a stone"), correlation_id="c")
DOCUMENTS = RerankRequest(
    query="stone", documents=("The river", "a stone", "oak"), correlation_id="c"
)

Call = Callable[[LlamaCppClient], Coroutine[Any, Any, Any]]


async def told(transport: EngineTransport, name: str, call: Call) -> Any:
    """What the client makes of one recorded answer, whatever it asks."""
    async with hostile([RECORDED[name]]) as server:
        return await call(LlamaCppClient(transport, server.base_url, "key"))


def head_and_body(name: str) -> tuple[bytes, bytes]:
    head, _, body = RECORDED[name].partition(b"\r\n\r\n")
    return head, body


def payloads_of(name: str) -> list[dict[str, Any]]:
    """The events of a stream, by the plainest reading there is."""
    lines = head_and_body(name)[1].decode().split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def expected_of(name: str) -> tuple[list[str], dict[str, Any]]:
    *events, last = payloads_of(name)
    return [event["content"] for event in events if event["content"]], last


async def streamed(transport: EngineTransport, name: str) -> list[StreamItem]:
    items: list[StreamItem] = await told(
        transport, name, lambda client: items_of(client, request_of("x"))
    )
    return items


@pytest.mark.anyio
@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_is_its_tokens_and_its_own_figures(
    transport: EngineTransport, name: str
) -> None:
    """LO-WRK-117."""
    items = await streamed(transport, name)
    pieces, last = expected_of(name)
    assert [item.text for item in items if isinstance(item, Token)] == pieces
    reasons = {"eos": "stop", "limit": "length", "word": "stop_string"}
    assert finished_of(items) == Finished(
        reasons[last["stop_type"]],  # type: ignore[arg-type]
        last["tokens_evaluated"],
        last["tokens_predicted"],
        last["timings"]["cache_n"],
        last["id_slot"],
    )


@pytest.mark.anyio
@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_is_the_same_however_its_bytes_are_cut(
    transport: EngineTransport, name: str
) -> None:
    """LO-WRK-117, LO-WRK-005."""
    head, body = head_and_body(name)
    wire, pieces = b"", body.split(b"\r\n")
    for size, data in zip(pieces[::2], pieces[1::2], strict=False):
        assert int(size, 16) == len(data)
        wire += b"".join(chunk(data[i : i + 1]) for i in range(len(data)))
    async with hostile([head + b"\r\n\r\n", wire + b"0\r\n\r\n"]) as server:
        client = LlamaCppClient(transport, server.base_url, "key")
        assert await items_of(client, request_of("x")) == await streamed(transport, name)


@pytest.mark.anyio
async def test_progress_counts_batches_and_what_was_cached(transport: EngineTransport) -> None:
    """LO-WRK-117, LO-WRK-017."""
    whole = await streamed(transport, "completion-progress")
    assert [item for item in whole if isinstance(item, Progress)] == [
        Progress(300, 0, processed) for processed in (0, 128, 256, 300)
    ]
    cached = await streamed(transport, "completion-cached")
    assert [item for item in cached if isinstance(item, Progress)] == [
        Progress(301, 300, 300),
        Progress(301, 300, 301),
    ]
    assert finished_of(cached).cached_tokens == 300


@pytest.mark.anyio
async def test_each_ending_was_recorded_for_its_own_reason(transport: EngineTransport) -> None:
    """LO-WRK-117."""
    reasons = {name: finished_of(await streamed(transport, name)).finish_reason for name in STREAMS}
    assert reasons["completion"] == "length"
    assert reasons["completion-stop"] == "stop_string"
    assert reasons["completion-schema"] == reasons["completion-grammar"] == "stop"
    assert finished_of(await streamed(transport, "completion")).slot == 1
    assert finished_of(await streamed(transport, "completion-no-such-slot")).slot in (0, 1)


@pytest.mark.anyio
async def test_what_was_held_to_a_schema_is_json_of_it(transport: EngineTransport) -> None:
    """LO-WRK-117."""
    said = json.loads(text_of(await streamed(transport, "completion-schema")))
    assert set(said) == set(SCHEMA["required"])
    assert text_of(await streamed(transport, "completion-grammar")).isdigit()


@pytest.mark.anyio
async def test_a_trial_tells_a_schema_that_holds_from_one_that_is_passed_over(
    transport: EngineTransport,
) -> None:
    """LO-WRK-117, LO-WRK-111."""
    request = request_of("x", json_schema=SCHEMA)

    async def first(client: LlamaCppClient) -> None:
        async with aclosing(client.stream(request)) as stream:
            await anext(stream)

    with pytest.raises(EngineRefused, match="cannot hold"):
        await told(transport, "trial-passed-over", first)
    # The same answer comes to the generation itself, which shows that the trial went well.
    with pytest.raises(EngineProtocolError, match="not an event stream"):
        await told(transport, "trial-held", first)


@pytest.mark.anyio
async def test_vectors_in_bits_are_the_vectors_in_decimals(transport: EngineTransport) -> None:
    """LO-WRK-117, LO-WRK-100."""
    packed: Embeddings = await told(transport, "embeddings", lambda client: client.embed(TEXTS))
    written: Embeddings = await told(
        transport, "embeddings-decimal", lambda client: client.embed(TEXTS)
    )
    assert [len(vector) for vector in packed.vectors] == [128, 128]
    assert packed.tokens_in == written.tokens_in > 2
    # Two runs on two slots, so equal but for the last bits.
    for one, other in zip(packed.vectors, written.vectors, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
        assert struct.unpack("<128f", struct.pack("<128f", *one)) == one


@pytest.mark.anyio
async def test_ranks_are_read_in_the_order_of_the_documents(transport: EngineTransport) -> None:
    """LO-WRK-117, LO-WRK-101."""
    found: Ranking = await told(transport, "rerank", lambda client: client.rerank(DOCUMENTS))
    rows = json.loads(head_and_body("rerank")[1])["results"]
    assert [row["relevance_score"] for row in rows] == sorted(found.scores, reverse=True)
    assert {row["index"]: row["relevance_score"] for row in rows} == dict(enumerate(found.scores))


async def from_all(transport: EngineTransport, names: dict[bytes, str], call: Call) -> Any:
    answers = {path: RECORDED[name] for path, name in names.items()}
    async with hostile(answers) as server:
        return await call(LlamaCppClient(transport, server.base_url, "key"))


GENERATES = {b"/v1/embeddings": "error-embeddings-off", b"/v1/rerank": "error-rerank-off"}


@pytest.mark.anyio
async def test_what_it_observes_is_what_ran(transport: EngineTransport) -> None:
    """LO-WRK-117, LO-WRK-115."""
    names = {b"/props": "props", b"/slots": "slots", b"/metrics": "metrics"}
    seen = await from_all(transport, names, LlamaCppClient.observe)
    assert (seen.ctx, seen.slots_total, seen.slots_busy, seen.requests_waiting) == (CTX, 2, 0, 0)
    assert seen.model_alias == "tiny"
    assert seen.work_done > 0
    unused = await from_all(transport, names | {b"/slots": "slots-unused"}, LlamaCppClient.observe)
    assert (unused.slots_busy, unused.work_done) == (0, None)


@pytest.mark.anyio
async def test_what_it_can_is_what_it_was_started_for(transport: EngineTransport) -> None:
    """LO-WRK-117, LO-WRK-105, LO-WRK-107, LO-WRK-108."""
    plain = GENERATES | {b"/props": "props", b"/slots": "slots"}
    tools = GENERATES | {b"/props": "props-tools", b"/slots": "slots-one"}
    embeds = {
        b"/v1/embeddings": "embeddings-probe",
        b"/v1/rerank": "error-rerank-off",
        b"/props": "props-embedding",
        b"/slots": "slots-unused",
    }
    ranks = embeds | {b"/v1/rerank": "rerank-probe"}
    can = [
        await from_all(transport, names, LlamaCppClient.capabilities)
        for names in (plain, tools, embeds, ranks)
    ]
    assert [one.workloads for one in can] == [
        {Workload.COMPLETION, Workload.CHAT},
        {Workload.COMPLETION, Workload.CHAT},
        {Workload.EMBEDDING},
        {Workload.RERANK},
    ]
    assert [Feature.TOOLS in one.features for one in can] == [False, True, False, False]
    assert [one.strict_refusal is None for one in can] == [False, True, False, False]
    with pytest.raises(EngineRefused, match="--pooling"):
        await from_all(
            transport, {b"/v1/embeddings": "error-no-pooling"}, LlamaCppClient.capabilities
        )


WRONG = (EngineRefused, ErrorCode.INVALID_PARAMS)
TOO_LONG = (EngineRefused, ErrorCode.CONTEXT_EXCEEDED)
BUSY = (EngineBusy, ErrorCode.POOL_UNREADY)
FOREIGN = (EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL)
ERRORS: dict[str, tuple[type[EngineError], ErrorCode]] = {
    "error-context": TOO_LONG,
    "error-embeddings-empty": WRONG,
    "error-embeddings-long": TOO_LONG,
    "error-embeddings-off": FOREIGN,
    "error-grammar": WRONG,
    "error-json": WRONG,
    "error-key": FOREIGN,
    "error-loading": BUSY,
    "error-method": FOREIGN,
    "error-no-pooling": WRONG,
    "error-no-prompt": WRONG,
    "error-path": FOREIGN,
    "error-penalty": WRONG,
    "error-rerank-long": TOO_LONG,
    "error-rerank-off": FOREIGN,
    "error-template": WRONG,
    "error-token": WRONG,
    "error-type": WRONG,
}


def test_every_error_that_was_recorded_has_its_meaning() -> None:
    """LO-WRK-110."""
    assert {name for name in RECORDED if name.startswith("error-")} == set(ERRORS)


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_what_the_engine_said_under_our_code(name: str) -> None:
    """LO-WRK-110, LO-WRK-117."""
    head, body = head_and_body(name)
    error = answered_error(int(head.split(b" ")[1]), body)
    assert (type(error), error.code) == ERRORS[name]
    assert json.loads(body)["error"]["message"] in error.message


def body_of(code: int, kind: str, message: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "type": kind}}).encode()


NOT_RECORDED: list[tuple[int, bytes, tuple[type[EngineError], ErrorCode]]] = [
    # The binary, where the wheel answers 400.
    (
        *(500, body_of(500, "server_error", "[json.exception.parse_error.101] parse error")),
        (EngineFailed, ErrorCode.WORKER_RESET),
    ),
    (503, body_of(503, "unavailable_error", "no slot available"), BUSY),
    (501, body_of(501, "not_supported_error", "This server does not support metrics"), FOREIGN),
    (403, body_of(403, "permission_error", "no"), FOREIGN),
    # Builds that did not yet say how many tokens it was.
    (500, body_of(500, "server_error", "input is too large to process. increase"), TOO_LONG),
    (500, body_of(500, "server_error", "Compute error."), (EngineFailed, ErrorCode.WORKER_RESET)),
    # A proxy in between.
    (502, b"<html>Bad Gateway</html>", (EngineFailed, ErrorCode.WORKER_RESET)),
    (413, b"", WRONG),
    (429, b"", BUSY),
]


@pytest.mark.parametrize(("status", "body", "meaning"), NOT_RECORDED)
def test_an_error_that_the_wheel_does_not_give_has_its_meaning(
    status: int, body: bytes, meaning: tuple[type[EngineError], ErrorCode]
) -> None:
    """LO-WRK-110."""
    error = answered_error(status, body)
    assert (type(error), error.code) == meaning
