"""One running llama.cpp server, spoken to over HTTP.

The `llama-server` binary and the copy inside the xllamacpp wheel speak the same
dialect (`llamacpp_dialect`), and are started by `llamacpp_launch`.

- A stream is complete only after its event with `stop: true`; there is no
  `[DONE]`, and an `error` event can come inside an HTTP 200.
- Only a *streaming* request is freed at once when its client leaves, and while
  the prompt is still evaluated only after a second in which the server reported
  nothing, to anybody.  So every generation streams, and nobody should poll
  `/slots` or `/props` faster than once a second.
- A wish for a slot that does not exist is ignored without a word.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from contracts.engines import Feature
from contracts.tasks import Workload
from worker_adapters.answers import accepted, read_json
from worker_adapters.base import (
    EngineCapabilities,
    EngineClient,
    GenerationRequest,
    Observation,
    StreamItem,
    Token,
)
from worker_adapters.connection import EngineConnection
from worker_adapters.errors import EngineProtocolError
from worker_adapters.llamacpp_dialect import (
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
from worker_adapters.transport import EngineTransport


class LlamaCppClient(EngineClient):
    """One running llama.cpp server."""

    def __init__(self, transport: EngineTransport, base_url: str, api_key: str | None) -> None:
        self._engine = EngineConnection(
            transport, base_url, api_key, refusal=answered_error, engine="llama.cpp"
        )

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[StreamItem, None]:
        """Generate by `POST /completion`; a chat is rendered by `POST /apply-template` first."""
        prompt = await self._prompt(request)
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

    async def capabilities(self) -> EngineCapabilities:
        """What every llama.cpp server does."""
        return EngineCapabilities(
            workloads=frozenset({Workload.COMPLETION, Workload.CHAT}),
            features=frozenset(
                {
                    *(Feature.CANCEL, Feature.SEED, Feature.STOP, Feature.TEMPERATURE),
                    *(Feature.TOP_P, Feature.TOP_K, Feature.TOKENIZE),
                    *(Feature.PREFIX_CACHE, Feature.SLOTS),
                }
            ),
            strict_refusal="strict output is not proven yet",
        )

    async def observe(self) -> Observation:
        """`/props`, and `/slots` where it is served."""
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

    async def _slots(self) -> list[Slot] | None:
        answer = await self._engine.ask("GET", "/slots")
        if answer.status == 501:
            return None
        return read_json(accepted(answer, answered_error), list[Slot])


def _work_done(slots: Iterable[Slot]) -> int | None:
    """Of all slots that tell; None where none does."""
    told = [slot.work_done for slot in slots if slot.work_done is not None]
    return sum(told) if told else None
