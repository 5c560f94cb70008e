"""Embeddings and ranks, on real llama.cpp."""

from __future__ import annotations

import json
import math
import urllib.request
from pathlib import Path

import anyio
import pytest

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.tasks import Workload
from worker_adapters.base import EmbeddingRequest, GenerationRequest, RerankRequest
from worker_adapters.embedded import BATCH_TOKENS
from worker_adapters.errors import EngineRefused
from worker_adapters.llamacpp import TEXTS_AT_ONCE, LlamaCppClient
from worker_adapters.tests.conftest import VECTOR_CTX, RunningEngine, running
from worker_adapters.transport import EngineTransport

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
WIDTH = 128


def client_of(engine: RunningEngine, transport: EngineTransport) -> LlamaCppClient:
    return LlamaCppClient(transport, engine.base_url, engine.api_key)


def embedding_of(*inputs: str) -> EmbeddingRequest:
    return EmbeddingRequest(inputs=inputs, correlation_id="c")


def rerank_of(query: str, *documents: str) -> RerankRequest:
    return RerankRequest(query=query, documents=documents, correlation_id="c")


def in_decimals(engine: RunningEngine, text: str) -> list[float]:
    """The vector as the engine writes it out, digit by digit."""
    call = urllib.request.Request(
        f"{engine.base_url}/v1/embeddings",
        json.dumps({"input": text, "encoding_format": "float"}).encode(),
        {"Authorization": f"Bearer {engine.api_key}"},
    )
    with urllib.request.urlopen(call, timeout=30) as answer:
        vector: list[float] = json.loads(answer.read())["data"][0]["embedding"]
        return vector


async def test_a_vector_is_bit_by_bit_the_engines_own(
    embedding_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-100."""
    found = await client_of(embedding_engine, transport).embed(embedding_of("the stone"))
    written = await anyio.to_thread.run_sync(in_decimals, embedding_engine, "the stone")
    assert list(found.vectors[0]) == written
    assert math.isclose(math.hypot(*written), 1.0, rel_tol=1e-5)


async def test_vectors_stand_in_the_order_of_their_texts_and_all_tokens_are_counted(
    embedding_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-100, LO-WRK-102."""
    client = client_of(embedding_engine, transport)
    texts = [f"stone {number}" for number in range(2 * TEXTS_AT_ONCE + 3)]
    together = await client.embed(embedding_of(*texts))
    assert len(together.vectors) == len(texts)
    assert {len(vector) for vector in together.vectors} == {WIDTH}
    for number in (0, TEXTS_AT_ONCE, len(texts) - 1):
        alone = await client.embed(embedding_of(texts[number]))
        distances = [math.dist(vector, alone.vectors[0]) for vector in together.vectors]
        nearest = distances.index(min(distances))
        assert nearest == number
    requests = [
        GenerationRequest(prompt=text, max_tokens=1, seed=1, correlation_id="c") for text in texts
    ]
    counted = [await client.count_prompt(request) for request in requests]
    assert together.tokens_in == sum(counted)


async def test_a_text_may_fill_the_context_of_a_slot_and_no_more(
    embedding_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-103: a batch as small as that of generation would refuse it."""
    client = client_of(embedding_engine, transport)
    for tokens in (BATCH_TOKENS + 1, 513, VECTOR_CTX):
        text = " river" * tokens
        found = await client.embed(embedding_of(text, text))
        assert found.tokens_in == 2 * tokens
    with pytest.raises(EngineRefused, match=f"{VECTOR_CTX + 1} tokens") as caught:
        await client.embed(embedding_of(" river" * (VECTOR_CTX + 1)))
    assert caught.value.code is ErrorCode.CONTEXT_EXCEEDED


async def test_a_document_may_fill_the_context_of_a_slot_and_no_more(
    rerank_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-103."""
    client = client_of(rerank_engine, transport)
    found = await client.rerank(rerank_of(" a", " river" * (VECTOR_CTX - 2), " river"))
    assert found.tokens_in == VECTOR_CTX - 1 + 2
    with pytest.raises(EngineRefused, match=f"{VECTOR_CTX} tokens") as caught:
        await client.rerank(rerank_of(" a", " river" * (VECTOR_CTX - 1)))
    assert caught.value.code is ErrorCode.CONTEXT_EXCEEDED


async def test_scores_stand_in_the_order_of_the_request_though_the_engine_sorts_them(
    rerank_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-101, LO-WRK-102."""
    client = client_of(rerank_engine, transport)
    documents = [f"{word} stone" for word in ("cold", "the", "warm", "old", "red", "wet")] * 12
    found = await client.rerank(rerank_of("which stone", *documents))
    assert len(found.scores) == len(documents) > 2 * TEXTS_AT_ONCE
    assert list(found.scores[:6]) != sorted(found.scores[:6], reverse=True)
    alone = [
        (await client.rerank(rerank_of("which stone", one))).scores[0] for one in documents[:6]
    ]
    assert list(found.scores) == pytest.approx(alone * 12, abs=1e-3)


async def test_an_empty_text_is_refused_and_the_server_lives(
    embedding_engine: RunningEngine, rerank_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-104: llama.cpp aborts at a rerank without one token."""
    embeds, ranks = client_of(embedding_engine, transport), client_of(rerank_engine, transport)
    with pytest.raises(EngineRefused) as caught:
        await embeds.embed(embedding_of("a", ""))
    assert caught.value.code is ErrorCode.INVALID_PARAMS
    for query, document in (("", ""), (" \n", ""), ("", "a")):
        with pytest.raises(EngineRefused, match="query") as caught:
            await ranks.rerank(rerank_of(query, document))
        assert caught.value.code is ErrorCode.INVALID_PARAMS
    assert len((await ranks.rerank(rerank_of("a", "", "b"))).scores) == 2


async def test_each_server_tells_what_it_was_started_for(
    engine: RunningEngine,
    embedding_engine: RunningEngine,
    rerank_engine: RunningEngine,
    transport: EngineTransport,
) -> None:
    """LO-WRK-105."""
    told = [
        await client_of(one, transport).capabilities()
        for one in (engine, embedding_engine, rerank_engine)
    ]
    assert [one.workloads for one in told] == [
        {Workload.COMPLETION, Workload.CHAT},
        {Workload.EMBEDDING},
        {Workload.RERANK},
    ]
    structured = {Feature.JSON_SCHEMA, Feature.GRAMMAR}
    assert structured <= told[0].features
    assert not structured & (told[1].features | told[2].features)


async def test_a_model_without_a_pooling_of_its_own_is_named_with_the_remedy(
    models: Path, transport: EngineTransport, tmp_path: Path
) -> None:
    """LO-WRK-106."""
    with running(models / "tiny.gguf", tmp_path / "log", workload="embedding") as served:
        with pytest.raises(EngineRefused, match=r"no pooling.*--pooling"):
            await client_of(served, transport).capabilities()


async def test_what_was_not_sent_yet_is_not_worked_off_for_nobody(
    embedding_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-109: a server does not notice in time that the client of an answer left."""
    client = client_of(embedding_engine, transport)
    texts = [" river" * 500] * (40 * TEXTS_AT_ONCE)
    with anyio.move_on_after(0.5) as scope:
        await client.embed(embedding_of(*texts))
    assert scope.cancelled_caught
    with anyio.fail_after(10):
        while (await client.observe()).slots_busy:  # noqa: ASYNC110 - it has no event to wait for
            await anyio.sleep(0.1)
