"""What orchestratord tells of itself and of the pools behind it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from contracts.engines import Feature
from contracts.model import Contract, TokenCount
from contracts.pools import DeviceView, PoolView
from contracts.tasks import Workload

API_VERSION = "v1"


class LimitsView(Contract):
    """The bounds a client meets, from the configuration."""

    body_bytes: int = Field(ge=0, description="Largest request body.")
    body_timeout_ms: int = Field(ge=0, description="Time to send one, ms.")
    connections: int = Field(ge=0, description="Requests open at once.")
    streams: int = Field(ge=0, description="Event streams open at once.")
    json_depth: int = Field(ge=0, description="Nesting of a JSON body.")
    queue_capacity: int = Field(ge=0, description="Tasks waiting per pool.")
    queue_policy: Literal["reject", "drop-lru"] = Field(
        description="What a full queue does to a new task."
    )
    batch_max_wait_ms: int = Field(
        ge=0, description="A batch task that waited so long goes before interactive ones, ms."
    )
    sessions: int = Field(ge=0, description="Sessions open at once.")
    session_ttl_ms: int = Field(ge=0, description="Idle time to a session's end, ms.")
    session_max_turns: int = Field(ge=0, description="Tasks a session may run, unless told.")
    stream_retention_ms: int = Field(ge=0, description="A finished task can be read so long, ms.")


class PoolCapabilities(Contract):
    """What one pool can do, as its live replicas report it."""

    pool_id: str = Field(max_length=64, description="The pool.")
    engine: str = Field(max_length=64, description="The engine.")
    engine_version: str | None = Field(max_length=256, description="null until one is ready.")
    model_id: str = Field(max_length=128, description="The id to ask for.")
    model_digest: str | None = Field(max_length=128, description="sha256 of the model file.")
    ctx_max: TokenCount = Field(description="Prompt + output of one task, tokens.")
    slots_total: int = Field(ge=0, description="Tasks the ready replicas serve at once.")
    slots_free: int = Field(ge=0, description="Of these, free now.")
    workloads: tuple[Workload, ...] = Field(description="Workloads served.")
    features: tuple[Feature, ...] = Field(max_length=64, description="What all of them can do.")
    strict: bool = Field(description="Whether `determinism: strict` can be had.")
    strict_refusal: str | None = Field(
        max_length=512, description="Why it cannot, and the remedy; null: it can."
    )
    trtllm_version: str | None = Field(
        max_length=256, description="Of TensorRT-LLM under Triton; null: not told."
    )


class Capabilities(Contract):
    """What may be asked of this orchestrator."""

    api_version: Literal["v1"] = Field(description="The version of this API.")
    version: str = Field(max_length=64, description="The version of the program.")
    limits: LimitsView = Field(description="Bounds.")
    engines: tuple[str, ...] = Field(max_length=64, description="Engines in use.")
    sampler_profiles: tuple[str, ...] = Field(
        max_length=1000, description="Versions that `sampler_profile_version` may name."
    )
    pools: tuple[PoolCapabilities, ...] = Field(max_length=1000, description="Every pool.")


class PoolStatus(PoolView):
    """A pool as orchestratord sees it: pool_managerd's word and its own queue."""

    queue_depth: int = Field(ge=0, description="Tasks waiting.")
    running: int = Field(ge=0, description="Tasks running.")


class PoolPage(Contract):
    """Every pool, and the cards they run on."""

    items: tuple[PoolStatus, ...] = Field(max_length=1000, description="The pools.")
    devices: tuple[DeviceView, ...] = Field(max_length=64, description="The cards.")
    devices_age_ms: int | None = Field(ge=0, description="Age of their figures, ms.")
    pool_manager: Literal["connected", "away"] = Field(
        description="away: the figures are the last ones known."
    )
    next_cursor: str | None = Field(max_length=256, description="Always null: all pools fit.")
