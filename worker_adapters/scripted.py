"""An engine that does what it is told: the shipped fake, for tests of what calls engines.

    engine = ScriptedClient([Token("a"), Fault.LOST])

plays its list to each stream, token by token, and fails by name where the list
says so.  An embedding or a rerank is answered with the `Embeddings` or the `Ranking`
in the list, once all before it was played.  It opens no socket, and it decides
nothing: no text is made up, nothing is read from the request but for the record in
`requests`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from typing import TypeVar

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
    Ranking,
    RerankRequest,
    StreamItem,
)
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineLost,
    EngineProtocolError,
    EngineRefused,
    EngineUnreachable,
    unserved,
)


class Fault(StrEnum):
    """A way to misbehave."""

    UNREACHABLE = "unreachable"
    """No connection."""
    BUSY = "busy"
    """Loading, or full; says to come back in a second."""
    CONTEXT_EXCEEDED = "context_exceeded"
    """The prompt is too long."""
    INVALID = "invalid"
    """A parameter is refused."""
    FAILED = "failed"
    """The engine reports a failure of its own."""
    LOST = "lost"
    """The connection breaks."""
    FOREIGN = "foreign"
    """What comes is not the engine's dialect."""
    UNFINISHED = "unfinished"
    """The stream ends as if all were well, without its final event."""
    SILENT = "silent"
    """Nothing more comes, for ever."""
    UNSERVED = "unserved"
    """It has no words for what was asked."""


Answer = Embeddings | Ranking
Step = StreamItem | Answer | Fault | asyncio.Event
"""Yield it, answer with it, fail so, or wait until it is set."""
Kind = TypeVar("Kind", bound=Answer)


class ScriptedClient(EngineClient):
    """Plays `script` to every stream.

    Attributes:
        requests: every generation asked for, in order.
        asked: every embedding and rerank.
        reached: how often each fault was played; a test of a fault asserts on it.
        model_id: the model that was asked for last.
        abandoned: streams and questions given up before their script ended.
    """

    def __init__(
        self,
        script: Sequence[Step],
        *,
        observation: Observation | None = None,
        capabilities: EngineCapabilities | None = None,
        identity: bool = True,
    ) -> None:
        self._script = tuple(script)
        self.model_id: str | None = None
        self._identity = identity
        self._capabilities = capabilities or EngineCapabilities(
            workloads=frozenset({Workload.COMPLETION, Workload.CHAT}),
            features=frozenset(Feature),
            strict_refusal=None,
        )
        self._observation = observation or Observation(
            engine_version="scripted",
            ctx=4096,
            slots_total=1,
            slots_busy=0,
            kv_cache_usage=None,
            model_alias="scripted",
        )
        self.requests: list[GenerationRequest] = []
        self.asked: list[EmbeddingRequest | RerankRequest] = []
        self.reached: Counter[Fault] = Counter()
        self.abandoned = 0

    def ask_for(self, model_id: str) -> None:
        """Keep it."""
        self.model_id = model_id

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[StreamItem, None]:
        """Play the script from its beginning."""
        self.requests.append(request)
        try:
            for step in self._script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Fault):
                    await self._misbehave(step)
                elif not isinstance(step, Answer):
                    yield step
        except (GeneratorExit, asyncio.CancelledError):
            self.abandoned += 1
            raise

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """The vectors in the script, whatever the request is."""
        self.asked.append(request)
        return await self._answered(Embeddings)

    async def rerank(self, request: RerankRequest) -> Ranking:
        """The scores in the script, whatever the request is."""
        self.asked.append(request)
        return await self._answered(Ranking)

    async def capabilities(self) -> EngineCapabilities:
        """Those it was given."""
        return self._capabilities

    async def observe(self) -> Observation:
        """The observation it was given."""
        return self._observation

    async def count_prompt(self, request: GenerationRequest) -> int:
        """One token per word, of a chat those of its messages."""
        texts = [message.content for message in request.messages or ()]
        return len(" ".join([request.prompt or "", *texts]).split())

    async def prove_identity(self) -> bool:
        """As it was told."""
        return self._identity

    async def _answered(self, kind: type[Kind]) -> Kind:
        try:
            for step in self._script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Fault):
                    await self._misbehave(step)
                elif isinstance(step, kind):
                    return step
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        raise fault_error(Fault.UNFINISHED)

    async def _misbehave(self, fault: Fault) -> None:
        self.reached[fault] += 1
        if fault is Fault.SILENT:
            await asyncio.Event().wait()
        raise fault_error(fault)


def fault_error(fault: Fault) -> EngineError:
    """The error a named fault shows as; SILENT shows as none, and reads as lost here."""
    match fault:
        case Fault.UNREACHABLE:
            return EngineUnreachable("scripted: cannot connect")
        case Fault.BUSY:
            return EngineBusy("scripted: loading", retry_after_ms=1000)
        case Fault.CONTEXT_EXCEEDED:
            return EngineRefused("scripted: too long", code=ErrorCode.CONTEXT_EXCEEDED, status=400)
        case Fault.INVALID:
            return EngineRefused("scripted: invalid", code=ErrorCode.INVALID_PARAMS, status=400)
        case Fault.FAILED:
            return EngineFailed("scripted: failed")
        case Fault.FOREIGN:
            return EngineProtocolError("scripted: not an event of mine")
        case Fault.UNFINISHED:
            return EngineProtocolError("scripted: ended without its final event")
        case Fault.UNSERVED:
            return unserved("such thing")
        case Fault.LOST | Fault.SILENT:
            return EngineLost("scripted: connection lost")
