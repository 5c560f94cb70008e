"""Any server of OpenAI's API, spoken to over HTTP: what that API has, and no more.

It tells neither version nor context nor load, and its model list is all that can be
asked without work.  The model asked for is the one it lists by the name that is meant,
or the only one it lists.  What the API has no standard word for is refused here: such a
server ignores what it does not know.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.tasks import Workload
from worker_adapters.base import (
    EmbeddingRequest,
    Embeddings,
    EngineCapabilities,
    EngineClient,
    GenerationRequest,
    Observation,
    StreamItem,
)
from worker_adapters.connection import EngineConnection
from worker_adapters.errors import EngineProtocolError, EngineRefused, unserved
from worker_adapters.openai_dialect import (
    CTX_UNTOLD,
    SLOTS_UNTOLD,
    Model,
    Models,
    Vectors,
    answered_error,
    embedding_body,
    embeddings,
    generation_body,
)
from worker_adapters.openai_routes import ROUTES, served_routes, work
from worker_adapters.openai_stream import generated
from worker_adapters.transport import EngineTransport
from worker_adapters.wishes import refuse_beyond

NAMES_SHOWN = 8
GENERATION = frozenset(
    {
        *(Feature.CANCEL, Feature.SEED, Feature.STOP, Feature.TEMPERATURE, Feature.TOP_P),
        *(Feature.PRESENCE_PENALTY, Feature.FREQUENCY_PENALTY),
    }
)
STRICT_REFUSAL = "a server of OpenAI's API does not tell which engine it is, nor how it decodes"


class OpenAiClient(EngineClient):
    """One running server of OpenAI's API."""

    def __init__(self, transport: EngineTransport, base_url: str, api_key: str | None) -> None:
        self._engine = EngineConnection(
            transport, base_url, api_key, refusal=answered_error, engine="an OpenAI-compatible API"
        )
        self._model_id: str | None = None

    def ask_for(self, model_id: str) -> None:
        """Of several models that the server lists, the one of this name."""
        self._model_id = model_id

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[StreamItem, None]:
        """Generate by `/v1/completions`, or `/v1/chat/completions` of a chat.

        `cache_prompt=False` and `slot` are wishes that this API has no words for.
        """
        refuse_beyond(request, GENERATION)
        workload = Workload.COMPLETION if request.messages is None else Workload.CHAT
        body = generation_body(request, {"model": (await self._model()).id})
        async with aclosing(
            generated(self._engine, ROUTES[workload], body, request.correlation_id)
        ) as items:
            async for item in items:
                yield item

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """By `/v1/embeddings`."""
        body = embedding_body(request, (await self._model()).id)
        answer = await work(self._engine, Workload.EMBEDDING, Vectors, body, request.correlation_id)
        return embeddings(answer, len(request.inputs))

    async def capabilities(self) -> EngineCapabilities:
        """By its routes; reranking is no part of OpenAI's API."""
        workloads = await served_routes(self._engine) - {Workload.RERANK}
        generates = workloads & {Workload.COMPLETION, Workload.CHAT}
        return EngineCapabilities(
            workloads, GENERATION if generates else frozenset(), STRICT_REFUSAL
        )

    async def observe(self) -> Observation:
        """The model list; a context that it does not tell bounds nothing."""
        model = await self._model()
        return Observation(
            engine_version=None,
            ctx=model.max_model_len or CTX_UNTOLD,
            slots_total=SLOTS_UNTOLD,
            slots_busy=None,
            kv_cache_usage=None,
            model_alias=model.id,
        )

    async def count_prompt(self, request: GenerationRequest) -> int:  # noqa: ARG002
        """The API cannot count; raises EngineRefused."""
        raise unserved(Feature.TOKENIZE)

    async def prove_identity(self) -> bool:
        """By the model list, which is guarded where there is a key."""
        return await self._engine.takes_only_our_key("/v1/models")

    async def _model(self) -> Model:
        models = await self._engine.json("GET", "/v1/models", Models)
        if not models.data:
            raise EngineProtocolError("the engine lists no model")
        return chosen(models.data, self._model_id)


def chosen(listed: Sequence[Model], wanted: str | None) -> Model:
    """The model named `wanted`, or the only one; raises EngineRefused where neither is there.

    A server that serves one model mostly serves it under any name.
    """
    if wanted is None or len(listed) == 1:
        return listed[0]
    for model in listed:
        if model.id == wanted:
            return model
    names = ", ".join(f"{model.id:.64}" for model in listed[:NAMES_SHOWN])
    raise EngineRefused(
        f"the server lists {len(listed)} models and none is named {wanted}: set model.id to one"
        f" of {names}{', …' if len(listed) > NAMES_SHOWN else ''}",
        code=ErrorCode.INVALID_PARAMS,
        status=404,
    )
