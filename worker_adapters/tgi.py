"""One running Text Generation Inference server, spoken to over HTTP.

What is known of it comes from its published API and its source, version 3.3.6-dev0;
see `.specs/engines/tgi.md`.

- A stream of `/generate_stream` has one event a token, special ones included, and is
  complete only after the event with `generated_text` and `details`; there is no
  `[DONE]`.  It answers 200 before it looks at the request, so every refusal and
  failure may come as an event.
- A chat goes to `/v1/chat/completions` and not, rendered by `/chat_tokenize`, to
  `/generate_stream`: that would begin the prompt with the model's first token a
  second time, and its body has no word to forbid it.  That stream ends with
  `[DONE]`, also after an error.
- It sends the stop string that ended a text along; here it is no part of the text.
- It takes `max_concurrent_requests` and refuses the next one at once; nothing queues
  without bound.
- The generating routes and `/tokenize` are guarded by its key, the others are open.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from contracts.tasks import Workload
from worker_adapters.base import (
    EngineCapabilities,
    EngineClient,
    Finished,
    GenerationRequest,
    Observation,
    StreamItem,
    Token,
)
from worker_adapters.connection import EngineConnection
from worker_adapters.errors import EngineProtocolError
from worker_adapters.event_stream import EngineEvents
from worker_adapters.exposition import figures
from worker_adapters.stop_tail import StopTail
from worker_adapters.structure_bounds import check_structure
from worker_adapters.tgi_dialect import (
    DONE,
    FEATURES,
    METRICS,
    Info,
    Piece,
    TokenizedChat,
    Usage,
    chat_body,
    conversation_body,
    engine_version,
    finished,
    finished_chat,
    generate_body,
    read_chunk,
    read_event,
    text_body,
)
from worker_adapters.tgi_refusals import answered_error
from worker_adapters.transport import EngineTransport


class TgiClient(EngineClient):
    """One running TGI server."""

    def __init__(self, transport: EngineTransport, base_url: str, api_key: str | None) -> None:
        self._engine = EngineConnection(
            transport, base_url, api_key, refusal=answered_error, engine="TGI"
        )

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[StreamItem, None]:
        """Generate by `POST /generate_stream`, a chat by `POST /v1/chat/completions`."""
        check_structure(request)
        if request.prompt is None:
            path, body, read = "/v1/chat/completions", chat_body(request), _chat
        else:
            path, body, read = "/generate_stream", generate_body(request.prompt, request), _text
        tail = StopTail(request.stop)
        async with self._engine.events(path, body, request.correlation_id) as events:
            async for item in read(events):
                if isinstance(item, Finished):
                    rest, _ = tail.end()
                    if rest:
                        yield Token(rest)
                    yield item
                    return
                text = tail.add(item)
                if text:
                    yield Token(text)
        raise EngineProtocolError("the engine's stream ended without its final event")

    async def capabilities(self) -> EngineCapabilities:
        """What every TGI server does; min_p and presence_penalty it has none.

        A chat knows no top_k and no repetition_penalty: those are refused there.
        """
        return EngineCapabilities(
            workloads=frozenset({Workload.COMPLETION, Workload.CHAT}),
            features=FEATURES,
            strict_refusal="TGI decodes requests in batches of changing size, which changes the"
            " last bits of its sums, and so now and then a token",
        )

    async def observe(self) -> Observation:
        """`/health`, which asks its shards, `/info` and `/metrics`."""
        await self._engine.body("GET", "/health")
        info = await self._engine.json("GET", "/info", Info)
        told = figures(await self._engine.body("GET", "/metrics"), METRICS.values())
        figure = {name: told.get(family) for name, family in METRICS.items()}
        return Observation(
            engine_version=engine_version(info),
            ctx=info.max_total_tokens,
            slots_total=info.max_concurrent_requests,
            slots_busy=_count(figure["running"]),
            kv_cache_usage=None,
            model_alias=info.model_id,
            work_done=_sum(figure["batches"], figure["batches_done"]),
            requests_waiting=_count(figure["waiting"]),
        )

    async def count_prompt(self, request: GenerationRequest) -> int:
        """By `POST /tokenize`, of a chat by `POST /chat_tokenize`."""
        to = request.correlation_id
        if request.prompt is None:
            body = conversation_body(request)
            chat = await self._engine.json("POST", "/chat_tokenize", TokenizedChat, body, to)
            return len(chat.tokenize_response)
        body = text_body(request.prompt)
        return len(await self._engine.json("POST", "/tokenize", list[Piece], body, to))

    async def prove_identity(self) -> bool:
        """By `/tokenize`: everything that can be asked by GET is open to everybody."""
        return await self._engine.takes_only_our_key("/tokenize", text_body("x"))


async def _text(events: EngineEvents) -> AsyncGenerator[str | Finished, None]:
    """The texts and the end of a `/generate_stream`."""
    async for payloads in events.batches():
        # All that arrived together is yielded without an await in between.
        for number, payload in enumerate(payloads, start=1):
            event = read_event(payload)
            if event.token is not None and event.token.text and not event.token.special:
                yield event.token.text
            if event.details is not None:
                await events.expect_end(payloads[number:])
                yield finished(event.details)
                return


async def _chat(events: EngineEvents) -> AsyncGenerator[str | Finished, None]:
    """What a chat says: text, the reason of its end, its figures, `[DONE]`."""
    reason: str | None = None
    usage: Usage | None = None
    async for payloads in events.batches():
        for number, payload in enumerate(payloads, start=1):
            if payload == DONE:
                await events.expect_end(payloads[number:])
                yield finished_chat(reason, usage)
                return
            chunk = read_chunk(payload)
            usage = chunk.usage or usage
            for choice in chunk.choices or ():
                reason = choice.finish_reason or reason
                if choice.delta.content:
                    yield choice.delta.content


def _count(figure: float | None) -> int | None:
    return None if figure is None or figure < 0 else int(figure)


def _sum(*figures: float | None) -> int | None:
    """Of those that are told; None where none is."""
    told = [figure for figure in figures if figure is not None]
    return int(sum(told)) if told else None
