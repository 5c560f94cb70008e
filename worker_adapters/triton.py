"""One running Triton server with a text model, spoken to over HTTP.

Through the generate extension: TensorRT-LLM, vLLM's backend and Python models all
speak it.  See `.specs/engines/triton.md`.

- The server has no name for "the model": it is the one that is ready and makes text
  of text.  Where several are, nobody can know which is meant.
- A stream ends with its body, and with nothing else: one that was cut within an event
  is no end.
- What a model cannot is refused here: Triton takes unknown inputs without a word.
- It has no key, no template, no tokenizer and no seed contract.
- Its figures are on a port of their own.  By Triton's own defaults that is the second
  after the HTTP port, and `triton_launch` keeps to it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from urllib.parse import quote, urlsplit

from contracts.tasks import Workload
from worker_adapters.base import (
    EngineCapabilities,
    EngineClient,
    GenerationRequest,
    Observation,
    StreamItem,
    Token,
)
from worker_adapters.connection import EngineConnection
from worker_adapters.errors import EngineBusy, EngineError, EngineProtocolError, unserved
from worker_adapters.stop_tail import StopTail
from worker_adapters.transport import EngineTransport
from worker_adapters.triton_dialect import (
    IndexEntry,
    ModelConfig,
    ModelMetadata,
    Server,
    Tally,
    TextModel,
    context,
    generate_body,
    read_event,
    ready_names,
    slots,
    text_model,
    trtllm_version,
)
from worker_adapters.triton_launch import METRICS_PORT_AFTER
from worker_adapters.triton_metrics import Figures, read_figures
from worker_adapters.triton_refusals import answered_error

PORT_MAX = 65535
METRICS_TIMEOUT_S = 2.0
MODELS_MAX = 64
"""Of a repository, looked at in search of the text model."""


class TritonClient(EngineClient):
    """One running Triton server."""

    def __init__(self, transport: EngineTransport, base_url: str, api_key: str | None) -> None:
        self._engine = EngineConnection(
            transport, base_url, api_key, refusal=answered_error, engine="Triton"
        )
        metrics_url = _metrics_url(base_url)
        self._metrics = metrics_url and EngineConnection(
            transport, metrics_url, None, refusal=answered_error, engine="Triton"
        )
        self._model: TextModel | None = None

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[StreamItem, None]:
        """Generate by `POST /v2/models/M/generate_stream`; a chat is refused."""
        if request.prompt is None:
            raise unserved(Workload.CHAT)
        model = await self._text_model()
        body = generate_body(model, request)
        path = f"{_path(model)}/generate_stream"
        tail, tally = StopTail(request.stop), Tally(request.max_tokens)
        async with self._engine.events(path, body, request.correlation_id) as events:
            async for payloads in events.batches():
                # All that arrived together is yielded without an await in between.
                for payload in payloads:
                    event = read_event(payload)
                    tally.add(event)
                    text = tail.add(event.text_output or "")
                    if text:
                        yield Token(text)
            if events.is_cut:
                raise EngineProtocolError("the engine's stream ended within an event")
        rest, stopped = tail.end()
        if rest:
            yield Token(rest)
        yield tally.finished(stopped=stopped)

    async def capabilities(self) -> EngineCapabilities:
        """What the model's own inputs allow."""
        model = await self._text_model()
        config = await self._engine.json("GET", f"{_path(model)}/config", ModelConfig)
        return EngineCapabilities(
            workloads=frozenset({Workload.COMPLETION}),
            features=model.features,
            strict_refusal="Triton promises no equal output for an equal seed",
            trtllm_version=trtllm_version(config),
        )

    async def observe(self) -> Observation:
        """`/v2`, the model's configuration, and the figures where they can be had.

        Its statistics change at the end of a request and not while it works, so
        that nothing is a sign of work done.
        """
        server = await self._engine.json("GET", "/v2", Server)
        model = await self._text_model()
        config = await self._engine.json("GET", f"{_path(model)}/config", ModelConfig)
        figures = await self._figures()
        return Observation(
            engine_version=server.version,
            ctx=context(config),
            slots_total=slots(config),
            slots_busy=figures.active,
            kv_cache_usage=figures.kv_cache_usage,
            model_alias=model.name,
            requests_waiting=figures.waiting,
        )

    async def count_prompt(self, request: GenerationRequest) -> int:  # noqa: ARG002
        """Triton has no tokenizer; raises EngineRefused."""
        raise unserved("tokenizer")

    async def prove_identity(self) -> bool:
        """Triton has no key: who listens is proved by its process group, or not at all."""
        return False

    async def _text_model(self) -> TextModel:
        """The model that is meant; kept, since a launch has one.

        Raises:
            EngineBusy: none is ready yet.
            EngineProtocolError: several are.
        """
        if self._model is None:
            self._model = await self._found()
        return self._model

    async def _found(self) -> TextModel:
        entries = await self._engine.json("POST", "/v2/repository/index", list[IndexEntry], b"{}")
        found = []
        for name in ready_names(entries)[:MODELS_MAX]:
            told = await self._engine.json("GET", f"/v2/models/{quote(name)}", ModelMetadata)
            model = text_model(told)
            if model is not None:
                found.append(model)
        if not found:
            raise EngineBusy("Triton has no model ready that makes text of text")
        if len(found) > 1:
            names = ", ".join(sorted(model.name for model in found))
            raise EngineProtocolError(
                f"Triton has several text models ready ({names}); start it with"
                " --model-control-mode=explicit --load-model=NAME"
            )
        return found[0]

    async def _figures(self) -> Figures:
        """Of the metrics port; nothing where it does not answer, or is somebody else's."""
        if not self._metrics:
            return Figures()
        try:
            page = await self._metrics.body("GET", "/metrics", timeout_s=METRICS_TIMEOUT_S)
        except EngineError:
            return Figures()
        return read_figures(page)


def _path(model: TextModel) -> str:
    return f"/v2/models/{quote(model.name)}"


def _metrics_url(base_url: str) -> str | None:
    """Where a server at `base_url` has its figures; None: such a port is not possible."""
    parts = urlsplit(base_url)
    if parts.port is None or parts.port + METRICS_PORT_AFTER > PORT_MAX:
        return None
    return f"http://{parts.hostname}:{parts.port + METRICS_PORT_AFTER}"
