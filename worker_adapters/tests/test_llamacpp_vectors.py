"""Embeddings and ranks of a server that answers whatever it likes."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from contracts.errors import ErrorCode
from worker_adapters.base import EmbeddingRequest, Embeddings, Ranking, RerankRequest
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineProtocolError,
    EngineRefused,
)
from worker_adapters.llamacpp import TEXTS_AT_ONCE, LlamaCppClient
from worker_adapters.llamacpp_vectors import DIMENSIONS_MAX, read_embeddings, read_ranks
from worker_adapters.tests.hostile import answer, hostile
from worker_adapters.transport import Answer, EngineTransport

USAGE = {"prompt_tokens": 5, "total_tokens": 5}


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def vectors_of(*vectors: object) -> bytes:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return json.dumps({"data": data, "usage": USAGE}).encode()


def ranks_of(*ranks: tuple[object, object]) -> bytes:
    results = [{"index": index, "relevance_score": score} for index, score in ranks]
    return json.dumps({"results": results, "usage": USAGE}).encode()


def test_vectors_are_read_as_packed_bits_and_as_decimals() -> None:
    """LO-WRK-100: old builds know no base64."""
    found = read_embeddings(vectors_of(packed(0.1, -2.0), [0.5, 1e-3]), 2)
    single = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    assert found == ([(single, -2.0), (0.5, 1e-3)], 5)


def test_vectors_are_put_in_the_order_of_the_request() -> None:
    """LO-WRK-102."""
    rows = json.loads(vectors_of(packed(1.0), packed(2.0)))
    rows["data"].reverse()
    assert read_embeddings(json.dumps(rows).encode(), 2)[0] == [(1.0,), (2.0,)]


def test_scores_are_put_in_the_order_of_the_request() -> None:
    """LO-WRK-101."""
    assert read_ranks(ranks_of((2, 0.9), (0, 0.5), (1, -3)), 3) == ([0.5, -3.0, 0.9], 5)


TWICE = json.dumps(
    {"data": [{"index": 0, "embedding": [1.0]}] * 2, "usage": USAGE},
).encode()
WRONG_VECTORS: dict[str, bytes] = {
    "too few": vectors_of(packed(1.0)),
    "too many": vectors_of(packed(1.0), packed(1.0), packed(1.0)),
    "one twice": TWICE,
    "an index beyond": TWICE.replace(b'"index": 0', b'"index": 7', 1),
    "a negative index": TWICE.replace(b'"index": 0', b'"index": -1', 1),
    "unequal lengths": vectors_of(packed(1.0), packed(1.0, 2.0)),
    "an empty vector": vectors_of([1.0], []),
    "no bits": vectors_of(packed(1.0), ""),
    "not base64": vectors_of(packed(1.0), "===!"),
    "half a number": vectors_of(packed(1.0), "AAAA"),
    "two, and one twice": json.dumps(
        {"data": [{"index": i, "embedding": [1.0]} for i in (0, 1, 1)], "usage": USAGE}
    ).encode(),
    "too long": vectors_of(*[[0.0] * (DIMENSIONS_MAX + 1)] * 2),
    "too many bits": vectors_of(*[packed(*[0.0] * (DIMENSIONS_MAX + 1))] * 2),
    "empty vectors": vectors_of([], []),
    "no bits at all": vectors_of("", ""),
    "no number": vectors_of([1.0], [None]),
    "not a number, in bits": vectors_of(packed(1.0), packed(float("nan"))),
    "infinity, in bits": vectors_of(packed(1.0), packed(float("inf"))),
    "a number too large": vectors_of([1.0], [0]).replace(b"[0]", b"[1e999]"),
    "words": vectors_of([1.0], ["one"]),
    "no usage": vectors_of([1.0], [1.0]).replace(b"usage", b"image"),
    "a negative usage": vectors_of([1.0], [1.0]).replace(b": 5", b": -5"),
    "html": b"<html>",
    "no shape": b"[]",
}


@pytest.mark.parametrize("case", WRONG_VECTORS)
def test_vectors_that_cannot_be_those_of_the_texts_are_refused(case: str) -> None:
    """LO-WRK-102."""
    with pytest.raises(EngineProtocolError):
        read_embeddings(WRONG_VECTORS[case], 2)


WRONG_RANKS: dict[str, bytes] = {
    "too few": ranks_of((0, 0.5)),
    "too many": ranks_of((0, 0.5), (1, 0.5), (2, 0.5)),
    "one twice": ranks_of((0, 0.5), (0, 0.5)),
    "two, and one twice": ranks_of((0, 0.5), (1, 0.5), (1, 0.5)),
    "an index beyond": ranks_of((0, 0.5), (2, 0.5)),
    "no number": ranks_of((0, 0.5), (1, None)),
    "a number too large": ranks_of((0, 0.5), (1, 7)).replace(b": 7", b": 1e999"),
    "words": ranks_of((0, 0.5), (1, "best")),
    "html": b"<html>",
}


@pytest.mark.parametrize("case", WRONG_RANKS)
def test_scores_that_cannot_be_those_of_the_documents_are_refused(case: str) -> None:
    """LO-WRK-102."""
    with pytest.raises(EngineProtocolError):
        read_ranks(WRONG_RANKS[case], 2)


async def embedded(transport: EngineTransport, *writes: bytes) -> Embeddings:
    async with hostile(writes) as server:
        client = LlamaCppClient(transport, server.base_url, "key")
        found = await client.embed(EmbeddingRequest(inputs=("a", "b"), correlation_id="c-7"))
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert json.loads(body) == {"input": ["a", "b"], "encoding_format": "base64"}
    assert b"X-Correlation-Id: c-7" in head
    return found


@pytest.mark.anyio
async def test_texts_go_out_and_vectors_come_in(transport: EngineTransport) -> None:
    """LO-WRK-100, LO-WRK-010."""
    found = await embedded(transport, answer(200, vectors_of([1.0], [2.0])))
    assert found == Embeddings(((1.0,), (2.0,)), 5)


@pytest.mark.anyio
async def test_documents_go_out_and_scores_come_in(transport: EngineTransport) -> None:
    """LO-WRK-101, LO-WRK-010."""
    request = RerankRequest(query="q", documents=("a", "b"), correlation_id="c-8")
    async with hostile([answer(200, ranks_of((1, 2.0), (0, 1.0)))]) as server:
        found = await LlamaCppClient(transport, server.base_url, "key").rerank(request)
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert found == Ranking((1.0, 2.0), 5)
    assert json.loads(body) == {"query": "q", "documents": ["a", "b"]}
    assert b"X-Correlation-Id: c-8" in head


class Answering(EngineTransport):
    """Gives its answers one after the other, whatever is asked."""

    def __init__(self, *bodies: bytes) -> None:
        super().__init__()
        self._bodies = iter(bodies)

    async def ask(self, *_: Any, **__: Any) -> Answer:
        return Answer(200, {}, next(self._bodies))


@pytest.mark.anyio
async def test_vectors_of_one_task_are_of_one_length_though_they_came_in_two_answers() -> None:
    """LO-WRK-102, LO-WRK-109."""
    first, rest = vectors_of(*[[1.0]] * TEXTS_AT_ONCE), vectors_of([1.0])
    request = EmbeddingRequest(inputs=("a",) * (TEXTS_AT_ONCE + 1), correlation_id="c")
    found = await LlamaCppClient(Answering(first, rest), "http://x", None).embed(request)
    assert found == Embeddings(((1.0,),) * (TEXTS_AT_ONCE + 1), 10)
    client = LlamaCppClient(Answering(first, vectors_of([1.0, 2.0])), "http://x", None)
    with pytest.raises(EngineProtocolError, match="dimensions"):
        await client.embed(request)


TOO_LARGE = "input (513 tokens) is too large to process. increase the physical batch size"
REFUSALS: list[tuple[int, dict[str, Any], type[EngineError], ErrorCode]] = [
    (500, {"message": TOO_LARGE}, EngineRefused, ErrorCode.CONTEXT_EXCEEDED),
    (400, {"type": "exceed_context_size_error"}, EngineRefused, ErrorCode.CONTEXT_EXCEEDED),
    (400, {"message": "Input content cannot be empty"}, EngineRefused, ErrorCode.INVALID_PARAMS),
    (501, {"type": "not_supported_error"}, EngineRefused, ErrorCode.INVALID_PARAMS),
    (404, {"type": "not_found_error"}, EngineRefused, ErrorCode.INVALID_PARAMS),
    (401, {"type": "authentication_error"}, EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
    (500, {"type": "server_error"}, EngineFailed, ErrorCode.WORKER_RESET),
    (503, {"type": "unavailable_error"}, EngineBusy, ErrorCode.POOL_UNREADY),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "error", "kind", "code"), REFUSALS)
async def test_every_refusal_of_texts_has_its_error(
    transport: EngineTransport,
    status: int,
    error: dict[str, Any],
    kind: type[EngineError],
    code: ErrorCode,
) -> None:
    """LO-WRK-103, LO-WRK-110."""
    body = json.dumps({"error": {"message": "why", "code": status} | error}).encode()
    with pytest.raises(kind) as caught:
        await embedded(transport, answer(status, body))
    assert caught.value.code is code
