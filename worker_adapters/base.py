"""What every engine adapter provides: a launcher and a client.

A launcher is pure: it turns a `LaunchSpec` into argv and environment and never
starts anything.  A client speaks to one running engine and owns no process.
Cancelling is the caller's scope: closing a stream closes its connection, which
is what engines watch for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from contracts.engines import Feature
from contracts.pools import FailureReason, PoolWorkload
from contracts.tasks import Message, Workload
from worker_adapters.errors import unserved


@dataclass(frozen=True)
class LaunchSpec:
    """One engine process to be: model, address, size and cards."""

    model_path: Path | None
    """The model file; None where the engine finds its own."""
    model_alias: str
    """The name the engine shall answer to."""
    host: str
    port: int
    ctx: int
    """Tokens of context (prompt + output) of one slot."""
    slots: int
    """Requests decoded at once."""
    device_uuids: tuple[str, ...]
    """Cards the process may see; () = CPU only."""
    engine_args: tuple[str, ...]
    """From the configuration, appended last; never from a request."""
    api_key: str = field(repr=False)
    """A fresh secret per launch; travels in the environment, never in argv."""
    binary: str | None = None
    """Path of the engine's executable, where it is one."""
    slot_dir: Path | None = None
    """Where the engine may save slot state; None = not at all."""
    tensor_split: tuple[float, ...] = ()
    """Share of the model for each card of `device_uuids`; () = nothing to share."""
    workload: PoolWorkload = "generation"
    """What the engine shall be started for, where it has to be told."""


@dataclass(frozen=True)
class LaunchPlan:
    """How to start it; `env` is added to the allow-listed environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    end_argv: tuple[str, ...] = ()
    """What also has to be run at its end, once its processes are gone."""


class EngineLauncher(ABC):
    """Everything needed to start one kind of engine, and to read how it ended."""

    @abstractmethod
    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        """argv and environment for `spec`.  Pure; raises ValueError on an impossible spec."""

    @abstractmethod
    def exit_reason(self, exit_code: int | None, log_tail: Sequence[str]) -> FailureReason:
        """Why a process of this engine ended: its exit code, its last lines.

        A negative code is the signal that ended it; None: nobody knows.
        """

    def engine_version(self) -> str | None:
        """The version, where only the launcher can know it; None: ask the engine."""
        return None


@dataclass(frozen=True)
class Observation:
    """What a running engine says of itself; None where it does not tell."""

    engine_version: str | None
    ctx: int
    """Tokens of context of one slot."""
    slots_total: int
    slots_busy: int | None
    kv_cache_usage: float | None
    """Share of the KV cache in use, 0 to 1."""
    model_alias: str | None
    work_done: int | None = field(default=None, compare=False)
    """A number that changes whenever the engine works; None where it does not tell.

    Not compared: it changes with every question, and a snapshot does not show it.
    """
    requests_waiting: int | None = None
    """Requests it has taken and given no slot yet."""
    cache_evictions: int | None = None
    """Sequences whose KV cache was taken from them while they ran, since its start."""


@dataclass(frozen=True)
class EngineCapabilities:
    """What a running engine can be asked for; asked once per launch, since it stays."""

    workloads: frozenset[Workload]
    features: frozenset[Feature]
    strict_refusal: str | None
    """Why equal requests may give other bytes here; None: they give equal ones."""
    trtllm_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One text to generate: exactly one of `prompt` and `messages`.

    None of a sampling field leaves the engine's own default.
    """

    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    """A chat; the engine's own template renders it."""
    max_tokens: int
    seed: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    """Candidates less likely than this share of the likeliest are left out."""
    repetition_penalty: float | None = None
    """Divides the scores of tokens that were used; 1 is none."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    """The output is JSON of this schema."""
    grammar: str | None = None
    """The output is a sentence of this grammar, in the engine's own notation."""
    cache_prompt: bool = True
    """Whether cached prompt tokens may be reused."""
    slot: int | None = None
    """The engine slot leased for this request; None lets the engine choose."""
    correlation_id: str

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("a generation takes either `prompt` or `messages`")
        if self.json_schema is not None and self.grammar is not None:
            raise ValueError("a generation takes a `json_schema` or a `grammar`, not both")


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest:
    """Texts to be turned into vectors."""

    inputs: tuple[str, ...]
    correlation_id: str


@dataclass(frozen=True)
class Embeddings:
    """One vector for each input, in their order."""

    vectors: tuple[tuple[float, ...], ...]
    tokens_in: int
    """Tokens of all inputs."""


@dataclass(frozen=True, kw_only=True)
class RerankRequest:
    """Documents to be ordered by how well they answer a query."""

    query: str
    documents: tuple[str, ...]
    correlation_id: str


@dataclass(frozen=True)
class Ranking:
    """One score for each document, in the order of the request; higher is better."""

    scores: tuple[float, ...]
    tokens_in: int
    """Tokens of the query and all documents."""


class Progress(msgspec.Struct, frozen=True, gc=False):
    """How much of the prompt is evaluated: the engine works, though no token came yet."""

    prompt_tokens: int
    """Tokens of the whole prompt."""
    cached_tokens: int | None
    """Of these, found in the engine's cache; None: not told."""
    processed_tokens: int
    """Of these, done with, cached ones included."""


class Token(msgspec.Struct, frozen=True, gc=False):
    """A piece of text as the engine gave it; never empty."""

    text: str


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The engine completed the text; nothing follows."""

    finish_reason: Literal["stop", "length", "stop_string"]
    """End of text, token bound reached, or one of `stop` met."""
    tokens_in: int
    """Prompt tokens, cached ones included."""
    tokens_out: int
    """Tokens generated."""
    cached_tokens: int | None
    """Prompt tokens found in the engine's cache; None: not told."""
    slot: int | None = None
    """The slot that really served it, and holds its cache now; None: not told."""


StreamItem = Progress | Token | Finished


class EngineClient(ABC):
    """One running engine, spoken to over HTTP.  Every method may raise `EngineError`."""

    def ask_for(self, model_id: str) -> None:  # noqa: B027
        """Name the model that is meant, for an engine that may serve several at once."""

    @abstractmethod
    def stream(self, request: GenerationRequest) -> AsyncGenerator[StreamItem, None]:
        """Generate: progress with the prompt, tokens as they come, then exactly one `Finished`.

        A `Progress` comes before the first token only, and never twice with the
        same `processed_tokens`: each one means that the engine moved on.  An
        engine that tells of none yields none, or one with the first token.

        Use it under `contextlib.aclosing`; closing it at any point aborts the
        connection and so the generation.  It keeps no clock beyond the connect
        timeout: the caller bounds the wait for the first and each next token.
        Tokens that arrived together are yielded without suspending.

        Raises:
            EngineError: also after tokens; then no `Finished` was yielded.
        """

    async def embed(self, request: EmbeddingRequest) -> Embeddings:  # noqa: ARG002
        """The vectors of texts; the caller bounds the wait."""
        raise unserved(Workload.EMBEDDING)

    async def rerank(self, request: RerankRequest) -> Ranking:  # noqa: ARG002
        """The scores of documents; the caller bounds the wait."""
        raise unserved(Workload.RERANK)

    @abstractmethod
    async def capabilities(self) -> EngineCapabilities:
        """What may be asked of it; asked once, when it has just begun to serve."""

    @abstractmethod
    async def observe(self) -> Observation:
        """Version, size and busy slots.  Not faster than once a second: see the adapter."""

    @abstractmethod
    async def count_prompt(self, request: GenerationRequest) -> int:
        """How many prompt tokens the engine would evaluate, as `Finished.tokens_in` counts."""

    @abstractmethod
    async def prove_identity(self) -> bool:
        """Whether the engine takes our key and refuses a wrong one.

        True proves that the process answering holds the secret of this launch,
        and not merely that some server listens on its port.
        """
