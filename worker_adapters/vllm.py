"""One running vLLM, spoken to over HTTP.

- A stream is complete only after its `finish_reason`, its figures and `[DONE]`:
  after an error vLLM sends `[DONE]` too.
- What was decoded before the last piece was sent is joined to one piece (its
  `RequestOutputCollector`), so that the pieces of a text follow the load.
- It takes any number of requests and queues those it cannot decode at once, so it
  tells of no slots.
- Closing the connection ends the generation within one step.
- Only `/v1` is guarded by the key.
- During the first prefill of a prompt it reports nothing but the share of its KV
  cache in use, which grows with each batch of prompt tokens.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from contracts.engines import Feature
from contracts.tasks import Workload
from worker_adapters.answers import MALFORMED, accepted
from worker_adapters.base import (
    EmbeddingRequest,
    Embeddings,
    EngineCapabilities,
    EngineClient,
    Finished,
    GenerationRequest,
    Observation,
    Ranking,
    RerankRequest,
    StreamItem,
)
from worker_adapters.connection import EngineConnection
from worker_adapters.errors import EngineProtocolError
from worker_adapters.exposition import figures
from worker_adapters.openai_dialect import (
    COUNT_MAX,
    SLOTS_UNTOLD,
    Count,
    ErrorBody,
    Models,
    Scores,
    Vectors,
    answered_error,
    embedding_body,
    embeddings,
    encoded,
    generation_body,
    prompt_body,
    ranking,
    rerank_body,
)
from worker_adapters.openai_routes import ROUTES, served_routes, work
from worker_adapters.openai_stream import generated
from worker_adapters.structure_bounds import check_structure
from worker_adapters.transport import EngineTransport

VERSION_CHARACTERS = 256
GENERATION = frozenset(
    {
        *(Feature.CANCEL, Feature.SEED, Feature.STOP, Feature.TEMPERATURE, Feature.TOP_P),
        *(Feature.TOP_K, Feature.MIN_P, Feature.REPETITION_PENALTY, Feature.PRESENCE_PENALTY),
        *(Feature.FREQUENCY_PENALTY, Feature.JSON_SCHEMA, Feature.GRAMMAR),
    }
)
"""What every vLLM that generates has."""
STRICT_REFUSAL = (
    "vLLM sends several tokens as one piece whenever it decodes faster than it sends, so that equal"
    " texts come in unlike pieces; nor does it tell how many texts it decodes at once"
)
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
CACHE_USED, PREEMPTIONS = "vllm:kv_cache_usage_perc", "vllm:num_preemptions_total"
STEPS = "vllm:iteration_tokens_total_sum"
"""Tokens of all steps that gave any: prompt tokens that came to an end, and generated ones."""
FIGURES = frozenset({RUNNING, WAITING, CACHE_USED, PREEMPTIONS, STEPS})
CACHE_PARTS = 1_000_000


class Version(msgspec.Struct):
    """What `/version` says."""

    version: str


class Counted(msgspec.Struct):
    """What `/tokenize` says."""

    count: Count


class VllmClient(EngineClient):
    """One running vLLM."""

    def __init__(self, transport: EngineTransport, base_url: str, api_key: str | None) -> None:
        self._engine = EngineConnection(
            transport, base_url, api_key, refusal=answered_error, engine="vLLM"
        )

    def stream(self, request: GenerationRequest) -> AsyncGenerator[StreamItem, None]:
        """Generate by `/v1/completions`, or `/v1/chat/completions` of a chat."""
        check_structure(request)
        workload = Workload.COMPLETION if request.messages is None else Workload.CHAT
        body = generation_body(request, own_fields(request))
        return generated(self._engine, ROUTES[workload], body, request.correlation_id)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """By `/v1/embeddings`."""
        body = embedding_body(request, None)
        answer = await work(self._engine, Workload.EMBEDDING, Vectors, body, request.correlation_id)
        return embeddings(answer, len(request.inputs))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """By `/v1/rerank`."""
        body = rerank_body(request, None)
        answer = await work(self._engine, Workload.RERANK, Scores, body, request.correlation_id)
        return ranking(answer, len(request.documents))

    async def capabilities(self) -> EngineCapabilities:
        """By its routes, one token, its chat template, and its refusal of a tool."""
        workloads = await served_routes(self._engine)
        features = {Feature.TOKENIZE}
        if Workload.COMPLETION in workloads:
            features |= GENERATION
            if await self._tells_cache():
                features.add(Feature.PREFIX_CACHE)
        if Workload.CHAT in workloads and not await self._has_chat_template():
            workloads -= {Workload.CHAT}
        if Workload.CHAT in workloads and await self._takes_tools():
            features.add(Feature.TOOLS)
        return EngineCapabilities(workloads, frozenset(features), STRICT_REFUSAL)

    async def observe(self) -> Observation:
        """`/version`, `/v1/models` and `/metrics`."""
        version = await self._engine.json("GET", "/version", Version)
        models = await self._engine.json("GET", "/v1/models", Models)
        if not models.data or models.data[0].max_model_len is None:
            raise EngineProtocolError("the engine lists no model with a `max_model_len`")
        page = figures(await self._engine.body("GET", "/metrics"), FIGURES)
        usage = page.get(CACHE_USED)
        return Observation(
            engine_version=version.version[:VERSION_CHARACTERS],
            ctx=models.data[0].max_model_len,
            slots_total=SLOTS_UNTOLD,
            slots_busy=_whole(page, RUNNING),
            kv_cache_usage=None if usage is None else min(max(usage, 0.0), 1.0),
            model_alias=models.data[0].id,
            work_done=_work_done(page),
            requests_waiting=_whole(page, WAITING),
            cache_evictions=_whole(page, PREEMPTIONS),
        )

    async def count_prompt(self, request: GenerationRequest) -> int:
        """By `POST /tokenize`, which renders a chat by the model's template."""
        answer = await self._engine.json(
            "POST", "/tokenize", Counted, prompt_body(request), request.correlation_id
        )
        return answer.count

    async def prove_identity(self) -> bool:
        """By the model list, which is guarded; `/health` and `/metrics` are open."""
        return await self._engine.takes_only_our_key("/v1/models")

    async def _tells_cache(self) -> bool:
        """Whether it was started with `--enable-prompt-tokens-details`: one token shows it."""
        request = GenerationRequest(prompt="x", max_tokens=1, seed=0, correlation_id="capabilities")
        async with aclosing(self.stream(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    return item.cached_tokens is not None
        return False

    async def _has_chat_template(self) -> bool:
        """Whether it can render a chat: it counts one, and generates nothing."""
        body = encoded({"messages": [{"role": "user", "content": "x"}]})
        answer = await self._engine.ask("POST", "/tokenize", body)
        if answer.status == 400:
            return False
        accepted(answer, answered_error)
        return True

    async def _takes_tools(self) -> bool:
        """Whether it looks past the tools of a request, at a bound that no request may have."""
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        body = encoded(
            {
                "messages": [{"role": "user", "content": "x"}],
                "tools": [tool],
                "tool_choice": "auto",
                "max_tokens": 0,
            }
        )
        answer = await self._engine.ask("POST", ROUTES[Workload.CHAT], body)
        if answer.status != 400:
            accepted(answer, answered_error)
            return False
        try:
            error = msgspec.json.decode(answer.body, type=ErrorBody).error
        except MALFORMED:
            return False
        return not isinstance(error, str) and error.param == "max_tokens"


def own_fields(request: GenerationRequest) -> dict[str, Any]:
    """vLLM's additions to OpenAI's fields."""
    return {
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty,
        "structured_outputs": _structure(request),
        # Its cache is shared by equal salts only, so a new one finds nothing.
        "cache_salt": None if request.cache_prompt else secrets.token_hex(16),
    }


def _structure(request: GenerationRequest) -> dict[str, Any] | None:
    if request.json_schema is not None:
        return {"json": request.json_schema}
    return None if request.grammar is None else {"grammar": request.grammar}


def _whole(page: dict[str, float], name: str) -> int | None:
    """A figure that counts; None where it is not told."""
    return None if name not in page else int(min(max(page[name], 0.0), COUNT_MAX))


def _work_done(page: dict[str, float]) -> int | None:
    """Changes with each step: by its tokens, or by the cache that a batch of a prompt took."""
    if STEPS not in page:
        return None
    return int(page[STEPS]) * CACHE_PARTS + int(page.get(CACHE_USED, 0.0) * CACHE_PARTS)
