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

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress

from aiohttp import ClientResponse

from worker_adapters.base import (
    EngineClient,
    GenerationRequest,
    Observation,
    StreamItem,
    Token,
)
from worker_adapters.errors import EngineLost, EngineProtocolError
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
    read_json,
    text_body,
)
from worker_adapters.llamacpp_progress import PromptWatch
from worker_adapters.sse import EventParser, EventTooLong
from worker_adapters.transport import Answer, EngineTransport, Target, read_bounded, translated

END_TIMEOUT_S = 1.0
"""For the end of a body whose meaning is already known."""


class LlamaCppClient(EngineClient):
    """One running llama.cpp server."""

    def __init__(self, transport: EngineTransport, base_url: str, api_key: str | None) -> None:
        self._transport = transport
        self._target = Target(base_url.rstrip("/"), api_key)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[StreamItem, None]:
        """Generate by `POST /completion`; a chat is rendered by `POST /apply-template` first."""
        prompt = await self._prompt(request)
        async with self._transport.stream(
            "POST",
            self._url("/completion"),
            headers=self._target.headers(request.correlation_id),
            body=completion_body(prompt, request),
        ) as response:
            await self._check(response)
            parser = EventParser()
            watch: PromptWatch | None = PromptWatch()
            async for chunk in response.content.iter_any():
                # All that arrived together is yielded without an await in between.
                payloads = _payloads(parser, chunk)
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
                        await _expect_end(response, parser, payloads[number:])
                        yield finished(event)
                        return
        raise EngineProtocolError("the engine's stream ended without its final event")

    async def observe(self) -> Observation:
        """`/props`, and `/slots` where it is served."""
        props = read_json(_accepted(await self._ask("GET", "/props")), Props)
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
        answer = await self._ask("POST", "/tokenize", body, request.correlation_id)
        return len(read_json(_accepted(answer), Tokens).tokens)

    async def prove_identity(self) -> bool:
        """False also where there is no key: then nothing can be proved.

        The wrong key goes first: a stranger that takes any key never sees ours.
        """
        if self._target.api_key is None:
            return False
        stranger = Target(self._target.base_url, secrets.token_hex(16))
        refused = await self._transport.ask(
            "GET", self._url("/v1/models"), headers=stranger.headers()
        )
        if refused.status != 401:
            _accepted(refused)  # raises where it is loading, and so cannot tell yet
            return False
        return (await self._ask("GET", "/v1/models")).status == 200

    async def _prompt(self, request: GenerationRequest) -> str:
        """The text to go on with: a chat in the engine's own template.

        The template leaves out the leading token that `/completion` adds.
        """
        if request.prompt is not None:
            return request.prompt
        body = chat_body(request.messages or ())
        answer = await self._ask("POST", "/apply-template", body, request.correlation_id)
        return read_json(_accepted(answer), Rendered).prompt

    async def _slots(self) -> list[Slot] | None:
        answer = await self._ask("GET", "/slots")
        if answer.status == 501:
            return None
        return read_json(_accepted(answer), list[Slot])

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, correlation_id: str | None = None
    ) -> Answer:
        headers = self._target.headers(correlation_id)
        return await self._transport.ask(method, self._url(path), headers=headers, body=body)

    async def _check(self, response: ClientResponse) -> None:
        """Raise unless this is an event stream."""
        url = str(response.url)
        if response.status != 200:
            async with asyncio.timeout(END_TIMEOUT_S):
                body = await read_bounded(response, url)
            raise answered_error(response.status, body, response.headers.get("Retry-After"))
        if response.content_type != "text/event-stream":
            raise EngineProtocolError(
                f"{url} answered {response.content_type}, not an event stream: is it llama.cpp?"
            )

    def _url(self, path: str) -> str:
        return self._target.base_url + path


def _accepted(answer: Answer) -> bytes:
    if answer.status != 200:
        raise answered_error(answer.status, answer.body, answer.headers.get("Retry-After"))
    return answer.body


def _work_done(slots: Iterable[Slot]) -> int | None:
    """Of all slots that tell; None where none does."""
    told = [slot.work_done for slot in slots if slot.work_done is not None]
    return sum(told) if told else None


def _payloads(parser: EventParser, chunk: bytes) -> list[bytes]:
    try:
        return parser.feed(chunk)
    except EventTooLong:
        raise EngineProtocolError("the engine sent an event that does not end") from None


async def _expect_end(response: ClientResponse, parser: EventParser, rest: list[bytes]) -> None:
    """Nothing may follow the final event; a cut or a silence here loses nothing."""
    with suppress(EngineLost), translated(str(response.url)):
        async with asyncio.timeout(END_TIMEOUT_S):
            while not rest:
                chunk = await response.content.readany()
                if not chunk:
                    return
                rest = _payloads(parser, chunk)
    if rest:
        raise EngineProtocolError("the engine went on after its final event")
