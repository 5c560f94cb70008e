"""One running llama.cpp server, spoken to over HTTP.

The `llama-server` binary and the copy inside the xllamacpp wheel speak the same
dialect (`llamacpp_dialect`), and are started by `llamacpp_launch`.

- A stream is complete only after its event with `stop: true`; there is no
  `[DONE]`, and an `error` event can come inside an HTTP 200.
- Only a *streaming* request is freed at once when its client leaves, and while
  the prompt is still evaluated only after a second in which the server reported
  nothing, to anybody.  So every generation streams, and nobody should poll
  `/slots` or `/props` faster than once a second.
- A wish for a slot that does not exist is ignored without a word; the final event
  names the slot that served.
- A JSON schema that it cannot hold may be ignored as well: see `llamacpp_schema`; one
  that is too large may end it: see `structure_bounds`.
- Texts to embed or to rank are sent a few at a time: one answer holds all their
  vectors, and what is sent is worked off even after its client left.
- A rerank without one token ends the whole server.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

from contracts.errors import ErrorCode
from contracts.tasks import Workload
from worker_adapters.answers import accepted, read_json
from worker_adapters.base import (
    EmbeddingRequest,
    Embeddings,
    EngineCapabilities,
    EngineClient,
    GenerationRequest,
    Observation,
    Ranking,
    RerankRequest,
    StreamItem,
    Token,
)
from worker_adapters.connection import EngineConnection
from worker_adapters.errors import EngineProtocolError, EngineRefused, unserved
from worker_adapters.exposition import figures
from worker_adapters.llamacpp_abilities import PROBE, UNSERVED, abilities, is_served
from worker_adapters.llamacpp_dialect import (
    INT32_MAX,
    Props,
    Rendered,
    Slot,
    Tokens,
    answered_error,
    chat_body,
    completion_body,
    engine_version,
    finished,
    read_event,
    text_body,
)
from worker_adapters.llamacpp_progress import PromptWatch
from worker_adapters.llamacpp_schema import check_grammar, check_trial, trial_body
from worker_adapters.llamacpp_vectors import (
    Vector,
    check_dimensions,
    embedding_body,
    rank_body,
    read_embeddings,
    read_ranks,
)
from worker_adapters.structure_bounds import check_structure
from worker_adapters.transport import EngineTransport

TEXTS_AT_ONCE = 32
"""Vectors of 32,000 dimensions fit an answer, and little is worked off for nobody."""
NO_DEADLINE = math.inf
"""The caller bounds the wait."""
DEFERRED = "llamacpp:requests_deferred"
VECTOR_ROUTES = {Workload.EMBEDDING: "/v1/embeddings", Workload.RERANK: "/v1/rerank"}


class LlamaCppClient(EngineClient):
    """One running llama.cpp server."""

    def __init__(self, transport: EngineTransport, base_url: str, api_key: str | None) -> None:
        self._engine = EngineConnection(
            transport, base_url, api_key, refusal=answered_error, engine="llama.cpp"
        )

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[StreamItem, None]:
        """Generate by `POST /completion`; a chat is rendered by `POST /apply-template` first.

        A JSON schema is tried before, by a request of one token.
        """
        check_grammar(request)
        check_structure(request)
        prompt = await self._prompt(request)
        if request.json_schema is not None:
            trial, correlation_id = trial_body(request), request.correlation_id
            check_trial(await self._work("/completion", trial, correlation_id))
        body = completion_body(prompt, request)
        async with self._engine.events("/completion", body, request.correlation_id) as events:
            watch: PromptWatch | None = PromptWatch()
            async for payloads in events.batches():
                # All that arrived together is yielded without an await in between.
                for number, payload in enumerate(payloads, start=1):
                    event = read_event(payload)
                    if watch is not None:
                        progress = watch.told(event)
                        if progress is not None:
                            yield progress
                    if event.content:
                        watch = None
                        yield Token(event.content)
                    if event.stop:
                        await events.expect_end(payloads[number:])
                        yield finished(event)
                        return
        raise EngineProtocolError("the engine's stream ended without its final event")

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """By `POST /v1/embeddings`: the model's own pooling, normalized."""
        vectors: list[Vector] = []
        tokens_in = 0
        for inputs in _portions(request.inputs):
            body = embedding_body(inputs)
            said = await self._vectors(Workload.EMBEDDING, body, request.correlation_id)
            more, tokens = read_embeddings(said, len(inputs))
            vectors += more
            tokens_in += tokens
        check_dimensions(vectors)
        return Embeddings(tuple(vectors), tokens_in)

    async def rerank(self, request: RerankRequest) -> Ranking:
        """By `POST /v1/rerank`; each document is scored by itself."""
        if not request.query.strip():
            # llama.cpp aborts where a query and a document together have no token.
            raise EngineRefused(
                "rerank takes a query that says something",
                code=ErrorCode.INVALID_PARAMS,
                status=400,
            )
        scores: list[float] = []
        tokens_in = 0
        for documents in _portions(request.documents):
            body = rank_body(request.query, documents)
            said = await self._vectors(Workload.RERANK, body, request.correlation_id)
            more, tokens = read_ranks(said, len(documents))
            scores += more
            tokens_in += tokens
        return Ranking(tuple(scores), tokens_in)

    async def capabilities(self) -> EngineCapabilities:
        """By `/props`, `/slots` and an empty question to each route; no slot is taken."""
        embeds, ranks = [
            is_served(await self._engine.ask("POST", VECTOR_ROUTES[workload], PROBE))
            for workload in (Workload.EMBEDDING, Workload.RERANK)
        ]
        props = await self._engine.json("GET", "/props", Props)
        return abilities(props, await self._slots(), embeds=embeds, ranks=ranks)

    async def observe(self) -> Observation:
        """`/props`, and of `/slots` and `/metrics` what is served."""
        props = await self._engine.json("GET", "/props", Props)
        slots = await self._slots()
        return Observation(
            engine_version=engine_version(props),
            ctx=props.default_generation_settings.n_ctx,
            slots_total=props.total_slots,
            slots_busy=None if slots is None else sum(slot.is_processing for slot in slots),
            kv_cache_usage=None,
            model_alias=props.model_alias,
            work_done=_work_done(slots or ()),
            requests_waiting=await self._waiting(),
        )

    async def count_prompt(self, request: GenerationRequest) -> int:
        """By `POST /tokenize`, of a chat as `POST /apply-template` renders it."""
        body = text_body(await self._prompt(request))
        answer = await self._engine.json("POST", "/tokenize", Tokens, body, request.correlation_id)
        return len(answer.tokens)

    async def prove_identity(self) -> bool:
        """By the model list, which is guarded; `/health` is open to everybody."""
        return await self._engine.takes_only_our_key("/v1/models")

    async def _prompt(self, request: GenerationRequest) -> str:
        """The text to go on with: a chat in the engine's own template.

        The template leaves out the leading token that `/completion` adds.
        """
        if request.prompt is not None:
            return request.prompt
        body = chat_body(request.messages or ())
        answer = await self._engine.json(
            "POST", "/apply-template", Rendered, body, request.correlation_id
        )
        return answer.prompt

    async def _work(self, path: str, body: bytes, correlation_id: str) -> bytes:
        """The answer to something that takes as long as it takes."""
        return await self._engine.body("POST", path, body, correlation_id, timeout_s=NO_DEADLINE)

    async def _vectors(self, workload: Workload, body: bytes, correlation_id: str) -> bytes:
        answer = await self._engine.ask(
            "POST", VECTOR_ROUTES[workload], body, correlation_id, timeout_s=NO_DEADLINE
        )
        if answer.status in UNSERVED:
            raise unserved(workload)
        return accepted(answer, answered_error)

    async def _slots(self) -> list[Slot] | None:
        told = await self._where_served("/slots")
        return None if told is None else read_json(told, list[Slot])

    async def _waiting(self) -> int | None:
        """Requests that have no slot yet."""
        page = await self._where_served("/metrics")
        waiting = None if page is None else figures(page, (DEFERRED,)).get(DEFERRED)
        if waiting is None:
            return None
        if not 0 <= waiting <= INT32_MAX:
            raise EngineProtocolError(f"the engine told of {waiting} waiting requests")
        return int(waiting)

    async def _where_served(self, path: str) -> bytes | None:
        answer = await self._engine.ask("GET", path)
        return None if answer.status in UNSERVED else accepted(answer, answered_error)


def _portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield texts[start : start + TEXTS_AT_ONCE]


def _work_done(slots: Iterable[Slot]) -> int | None:
    """Of all slots that tell; None where none does."""
    told = [slot.work_done for slot in slots if slot.work_done is not None]
    return sum(told) if told else None
