"""What the clients of vLLM and of any OpenAI-compatible server make of what is no stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.tasks import Workload
from worker_adapters.base import (
    EmbeddingRequest,
    Embeddings,
    EngineClient,
    GenerationRequest,
    Observation,
    Ranking,
    RerankRequest,
)
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineProtocolError,
    EngineRefused,
)
from worker_adapters.openai import OpenAiClient
from worker_adapters.openai_dialect import CTX_UNTOLD, SLOTS_UNTOLD, answered_error
from worker_adapters.tests.hostile import answer, hostile
from worker_adapters.transport import EngineTransport
from worker_adapters.vllm import VllmClient

pytestmark = pytest.mark.anyio

Answers = dict[str, tuple[int, Any]]
MODELS = {"data": [{"id": "m", "max_model_len": 512}, {"id": "another"}]}
METRICS = """# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_running{engine="1"} 1.0
vllm:num_requests_waiting{engine="0"} 4.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:num_preemptions_total{engine="0"} 3.0
vllm:iteration_tokens_total_sum{engine="0"} 70.0
"""
TOLD: Answers = {
    "/version": (200, {"version": "0.32.0"}),
    "/v1/models": (200, MODELS),
    "/metrics": (200, METRICS),
}
EMBEDDING = EmbeddingRequest(inputs=("a", "b"), correlation_id="c")
RERANK = RerankRequest(query="q", documents=("a", "b"), correlation_id="c")


@asynccontextmanager
async def answering(answers: Answers) -> AsyncIterator[str]:
    """A server with these paths, of any method; all others answer 404 as FastAPI does."""

    async def handle(request: web.Request) -> web.Response:
        status, said = answers.get(request.path, (404, {"detail": "Not Found"}))
        text = said if isinstance(said, str) else json.dumps(said)
        return web.Response(status=status, text=text, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def observed(
    transport: EngineTransport, answers: Answers, kind: type[EngineClient] = VllmClient
) -> Observation:
    async with answering(answers) as base_url:
        client = kind(transport, base_url, "key")  # type: ignore[call-arg]
        return await client.observe()


async def test_it_tells_what_vllm_tells(transport: EngineTransport) -> None:
    """LO-WRK-139: summed over all its engines."""
    seen = await observed(transport, TOLD)
    assert seen == Observation("0.32.0", 512, SLOTS_UNTOLD, 3, 0.25, "m", None, 4, 3)
    assert seen.work_done is not None


@pytest.mark.parametrize(
    ("before", "after"),
    [('sum{engine="0"} 70.0', 'sum{engine="0"} 71.0'), ("} 0.25", "} 0.25001")],
)
async def test_a_step_and_a_part_of_a_prompt_are_work(
    transport: EngineTransport, before: str, after: str
) -> None:
    """LO-WRK-139."""
    first = await observed(transport, TOLD)
    page = METRICS.replace(before, after)
    assert page != METRICS
    second = await observed(transport, TOLD | {"/metrics": (200, page)})
    assert first.work_done != second.work_done


async def test_what_its_metrics_do_not_tell_is_not_told(transport: EngineTransport) -> None:
    """LO-WRK-139."""
    seen = await observed(transport, TOLD | {"/metrics": (200, "vllm:other 1\n")})
    assert (seen.slots_busy, seen.kv_cache_usage, seen.work_done) == (None, None, None)
    assert (seen.requests_waiting, seen.cache_evictions) == (None, None)


@pytest.mark.parametrize("figure", ["-1", "1e300"])
async def test_impossible_figures_stay_within_what_we_can_hold(
    transport: EngineTransport, figure: str
) -> None:
    page = "".join(
        line.rpartition(" ")[0] + f" {figure}\n" for line in METRICS.splitlines() if "{" in line
    )
    seen = await observed(transport, TOLD | {"/metrics": (200, page)})
    assert seen.kv_cache_usage in (0.0, 1.0)
    for count in (seen.slots_busy, seen.requests_waiting, seen.cache_evictions):
        assert count is not None
        assert 0 <= count < 2**31


@pytest.mark.parametrize(
    "models", [{"data": []}, {"data": [{"id": "m"}]}, {"data": [{"id": "m", "max_model_len": 0}]}]
)
async def test_a_vllm_without_a_size_is_none(transport: EngineTransport, models: Any) -> None:
    with pytest.raises(EngineProtocolError):
        await observed(transport, TOLD | {"/v1/models": (200, models)})


async def test_any_server_tells_its_model_and_no_more(transport: EngineTransport) -> None:
    """LO-WRK-143."""
    answers: Answers = {"/v1/models": (200, {"data": [{"id": "m"}]})}
    seen = await observed(transport, answers, OpenAiClient)
    assert seen == Observation(None, CTX_UNTOLD, SLOTS_UNTOLD, None, None, "m")


BAD_BODY = (400, {"error": {"message": "m", "param": "body.input"}})


async def can(client: type[EngineClient], transport: EngineTransport, answers: Answers) -> Any:
    async with answering(answers) as base_url:
        return await client(transport, base_url, "key").capabilities()  # type: ignore[call-arg]


async def test_its_routes_tell_what_it_serves(transport: EngineTransport) -> None:
    """LO-WRK-140, LO-WRK-138: a pooling vLLM has no route that generates; none is strict."""
    pooling: Answers = {"/v1/embeddings": BAD_BODY, "/v1/rerank": BAD_BODY}
    told = await can(VllmClient, transport, pooling)
    assert told.workloads == {Workload.EMBEDDING, Workload.RERANK}
    assert told.features == {Feature.TOKENIZE}
    assert "as one piece" in str(told.strict_refusal)


@pytest.mark.parametrize(
    ("template", "param", "expected"),
    [
        ((200, {"count": 3}), "max_tokens", (True, True)),
        ((200, {"count": 3}), None, (True, False)),
        ((400, {"error": {"message": "no chat template"}}), None, (False, False)),
    ],
)
async def test_a_chat_needs_a_template_and_tools_a_parser(
    transport: EngineTransport, template: Any, param: str | None, expected: tuple[bool, bool]
) -> None:
    """LO-WRK-140."""
    answers: Answers = {
        "/v1/chat/completions": (400, {"error": {"message": "m", "param": param}}),
        "/tokenize": template,
    }
    told = await can(VllmClient, transport, answers)
    chats = Workload.CHAT in told.workloads
    assert (chats, Feature.TOOLS in told.features) == expected


@pytest.mark.parametrize("status", [401, 500, 503])
async def test_an_engine_that_does_not_answer_has_no_capabilities(
    transport: EngineTransport, status: int
) -> None:
    """LO-WRK-140."""
    with pytest.raises(EngineError):
        await can(VllmClient, transport, {"/v1/completions": (status, {"error": "no"})})


async def test_any_server_is_asked_the_same_and_ranks_nothing(transport: EngineTransport) -> None:
    """LO-WRK-143."""
    answers: Answers = {"/v1/chat/completions": BAD_BODY, "/v1/rerank": BAD_BODY}
    told = await can(OpenAiClient, transport, answers)
    assert told.workloads == {Workload.CHAT}
    assert Feature.TOP_K not in told.features
    assert told.strict_refusal


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 3),
        ("min_p", 0.1),
        ("repetition_penalty", 1.1),
        ("json_schema", {"type": "object"}),
        ("grammar", "root ::= [0-9]"),
    ],
)
async def test_what_the_api_has_no_word_for_is_refused_by_name(
    transport: EngineTransport, field: str, value: Any
) -> None:
    """LO-WRK-142: and nothing is asked."""
    request = GenerationRequest(
        prompt="x", max_tokens=2, seed=1, correlation_id="c", **{field: value}
    )
    async with hostile([answer(200, b"{}")]) as server:
        client = OpenAiClient(transport, server.base_url, "key")
        async with aclosing(client.stream(request)) as stream:
            with pytest.raises(EngineRefused, match=field):
                await anext(stream)
    assert not server.requests


@pytest.mark.parametrize(
    ("listed", "wanted", "asked"),
    [
        (("a", "b"), "b", "b"),
        (("a",), "b", "a"),
        (("a", "b"), None, "a"),
        (("a", "b"), "c", None),
    ],
)
async def test_of_several_models_the_one_that_is_meant_is_asked(
    transport: EngineTransport, listed: tuple[str, ...], wanted: str | None, asked: str | None
) -> None:
    """LO-WRK-169."""
    models = {"data": [{"id": name} for name in listed]}
    async with answering({"/v1/models": (200, models)}) as base_url:
        client = OpenAiClient(transport, base_url, "key")
        if wanted is not None:
            client.ask_for(wanted)
        if asked is not None:
            assert (await client.observe()).model_alias == asked
            return
        with pytest.raises(EngineRefused, match=r"none is named c: set model\.id to one of a, b$"):
            await client.observe()


VECTORS = {"data": [{"index": 1, "embedding": [3.0]}, {"index": 0, "embedding": [1.5]}]}
SCORES = {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": -0.1}]}
USAGE = {"usage": {"prompt_tokens": 7}}


async def test_vectors_stand_in_the_order_of_their_texts(transport: EngineTransport) -> None:
    """LO-WRK-141."""
    answers: Answers = {"/v1/embeddings": (200, VECTORS | USAGE), "/v1/models": (200, MODELS)}
    async with answering(answers) as base_url:
        for client in (VllmClient, OpenAiClient):
            got = await client(transport, base_url, "key").embed(EMBEDDING)
            assert got == Embeddings(((1.5,), (3.0,)), 7)


async def test_scores_stand_in_the_order_of_their_documents(transport: EngineTransport) -> None:
    """LO-WRK-141."""
    async with answering({"/v1/rerank": (200, SCORES | USAGE)}) as base_url:
        got = await VllmClient(transport, base_url, "key").rerank(RERANK)
    assert got == Ranking((-0.1, 0.9), 7)


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}],
        [{"index": 0, "embedding": [None]}, {"index": 1, "embedding": [1.0]}],
    ],
)
async def test_vectors_that_are_not_one_for_each_text_are_refused(
    transport: EngineTransport, data: Any
) -> None:
    """LO-WRK-141."""
    async with answering({"/v1/embeddings": (200, {"data": data} | USAGE)}) as base_url:
        with pytest.raises(EngineProtocolError):
            await VllmClient(transport, base_url, "key").embed(EMBEDDING)


STATUSES: list[tuple[int, Any, type[EngineError], ErrorCode]] = [
    (400, {"message": "m", "code": 400}, EngineRefused, ErrorCode.INVALID_PARAMS),
    (400, {"message": "m", "param": "input_tokens"}, EngineRefused, ErrorCode.CONTEXT_EXCEEDED),
    (400, {"code": "context_length_exceeded"}, EngineRefused, ErrorCode.CONTEXT_EXCEEDED),
    (
        400,
        {"message": "This model's maximum context length is 9 tokens"},
        EngineRefused,
        ErrorCode.CONTEXT_EXCEEDED,
    ),
    (413, "too large", EngineRefused, ErrorCode.INVALID_PARAMS),
    (422, None, EngineRefused, ErrorCode.INVALID_PARAMS),
    (401, "Unauthorized", EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
    (403, None, EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
    (404, {"message": "m"}, EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
    (405, None, EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
    (429, {"message": "m", "code": "rate"}, EngineBusy, ErrorCode.POOL_UNREADY),
    (500, {"message": "m"}, EngineFailed, ErrorCode.WORKER_RESET),
    (501, None, EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
    (502, 7, EngineFailed, ErrorCode.WORKER_RESET),
    (503, {"message": "m"}, EngineBusy, ErrorCode.POOL_UNREADY),
    (307, None, EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
]


@pytest.mark.parametrize(("status", "error", "kind", "code"), STATUSES)
def test_every_refusal_has_its_meaning(
    status: int, error: Any, kind: type[EngineError], code: ErrorCode
) -> None:
    """LO-WRK-130."""
    meant = answered_error(status, json.dumps({"error": error}).encode(), "2")
    assert type(meant) is kind
    assert meant.code is code
    assert not isinstance(meant, EngineBusy) or meant.retry_after_ms == 2000


@pytest.mark.parametrize("status", range(300, 600))
def test_no_status_is_without_a_meaning(status: int) -> None:
    """LO-WRK-130: of whatever body."""
    for body in (b"", b"\xff", b"[" * 100_000, b'{"error":{"message":"%s"}}' % (b"x" * 99_999)):
        assert len(answered_error(status, body).message) < 1000
