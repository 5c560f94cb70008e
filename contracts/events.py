"""What a task's event stream says.

    metrics* started (token | metrics)* (end | error)      or      metrics* error

`id:` counts 1, 2, 3 … per task; there is exactly one terminal event, and
`started` may repeat with a higher attempt as long as no token was readable.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from contracts.errors import ErrorCode
from contracts.ids import PoolId
from contracts.model import Contract, Elapsed, Milliseconds, Omissible, Ratio, TokenCount
from contracts.sessions import Budgets
from contracts.tasks import SEED_MAX, EmbeddingResult, RerankResult

EventName = Literal["metrics", "started", "token", "end", "error"]
TERMINAL_EVENTS = frozenset({"end", "error"})


class StartedEvent(Contract):
    """An attempt has a slot and the engine has the prompt."""

    queue_position: int = Field(ge=0, description="Place in the queue when it left: always 0.")
    predicted_start_ms: Milliseconds | None = Field(
        description="What the admission predicted, ms; null when no rate was known."
    )
    attempt: int = Field(ge=1, description="1 for the first attempt.")
    pool_id: PoolId = Field(description="The pool.")
    replica_id: str = Field(max_length=128, description="The replica.")
    engine: str = Field(max_length=64, description="The engine.")
    engine_version: str | None = Field(max_length=256, description="As the engine reports it.")
    model_digest: str | None = Field(max_length=128, description="sha256 of the model file.")
    seed: int = Field(ge=0, le=SEED_MAX, description="The sampling seed in use.")


class TokenEvent(Contract):
    """One piece of text; joined they are the engine's text byte for byte."""

    t: str = Field(description="Text.")
    i: int = Field(ge=0, description="Index from 0.")


class GpuGauge(Contract):
    """One card as of the newest sample."""

    device: str = Field(max_length=128, description="UUID of the card.")
    utilization: Ratio | None = Field(description="Busy share, 0 to 1.")
    vram_used_bytes: int | None = Field(ge=0, description="Bytes in use.")
    vram_total_bytes: int | None = Field(ge=0, description="Bytes there are.")


class MetricsEvent(Contract):
    """Figures while queued and while decoding; more keys may be added."""

    queue_depth: int = Field(ge=0, description="Tasks waiting in the pool's queue.")
    queue_position: Omissible[int] = Field(default=None, ge=0, description="0 = next.")
    predicted_start_ms: Omissible[Milliseconds] = Field(default=None, description="ms from now.")
    on_time_probability: Ratio | None = Field(
        description="Chance to meet the deadline; 1 without one, null until a rate is known."
    )
    kv_warmth: Ratio = Field(description="Share of the prompt found in the engine's cache.")
    kv_migrated: bool = Field(description="Whether cached state was moved to this replica.")
    tokens_out: Omissible[TokenCount] = Field(default=None, description="Tokens so far.")
    budgets: Omissible[Budgets] = Field(default=None, description="Of the task's session.")
    gpu: Omissible[tuple[GpuGauge, ...]] = Field(default=None, description="Cards in use.")


class EndEvent(Contract):
    """The task succeeded; nothing follows."""

    finish_reason: str = Field(max_length=32, description="stop, length or stop_string.")
    tokens_in: TokenCount = Field(description="Prompt tokens.")
    tokens_out: TokenCount = Field(description="Generated tokens.")
    queue_ms: Elapsed = Field(description="Acceptance to start.")
    first_token_ms: Elapsed | None = Field(description="Start to first token.")
    decode_ms: Elapsed | None = Field(description="First token to last.")
    budgets: Omissible[Budgets] = Field(default=None, description="Of the task's session.")
    result: Omissible[EmbeddingResult | RerankResult] = Field(
        default=None, description="Of an embedding or rerank."
    )


class ErrorEvent(Contract):
    """The task did not succeed; nothing follows."""

    code: ErrorCode = Field(description="From the closed list.")
    message: str = Field(max_length=2048, description="One sentence.")
    retriable: bool = Field(description="Whether sending it again may succeed.")
    retry_after_ms: Omissible[Milliseconds] = Field(default=None, description="ms from now.")


EVENT_MODELS: dict[EventName, type[Contract]] = {
    "metrics": MetricsEvent,
    "started": StartedEvent,
    "token": TokenEvent,
    "end": EndEvent,
    "error": ErrorEvent,
}
