"""What an engine can be asked for: closed lists, shared by adapters, daemons and clients."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from pydantic import Field

from contracts.model import Contract
from contracts.tasks import Workload


class Feature(StrEnum):
    """One thing that some engines do and others do not."""

    CANCEL = "cancel"
    """It stops when its client leaves."""
    SEED = "seed"
    """Its sampling follows a seed."""
    STOP = "stop"
    """It ends a text at a string."""
    TEMPERATURE = "temperature"
    TOP_P = "top_p"
    TOP_K = "top_k"
    MIN_P = "min_p"
    REPETITION_PENALTY = "repetition_penalty"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    JSON_SCHEMA = "json_schema"
    """It holds its output to a JSON schema."""
    GRAMMAR = "grammar"
    """It holds its output to a grammar in its own notation."""
    TOOLS = "tools"
    """Its chat template knows tools."""
    TOKENIZE = "tokenize"
    """It counts the tokens of a prompt."""
    PREFIX_CACHE = "prefix_cache"
    """It tells how much of a prompt was in its cache."""
    SLOTS = "slots"
    """A request may name the slot whose cache it wants."""


NEUTRAL: Mapping[str, float] = MappingProxyType(
    {
        Feature.TOP_P: 1.0,
        Feature.TOP_K: 0,
        Feature.MIN_P: 0.0,
        Feature.REPETITION_PENALTY: 1.0,
        Feature.PRESENCE_PENALTY: 0.0,
        Feature.FREQUENCY_PENALTY: 0.0,
    }
)
"""The value by which a sampling parameter does nothing, as in an engine that does not have it."""


class ReplicaCapabilities(Contract):
    """What one running engine can be asked for, as it told itself."""

    workloads: tuple[Workload, ...] = Field(max_length=4, description="Workloads it serves.")
    features: tuple[Feature, ...] = Field(max_length=64, description="What else it can do.")
    strict_refusal: str | None = Field(
        max_length=512,
        description="Why output cannot be promised byte for byte; null: it can.",
    )
    trtllm_version: str | None = Field(
        default=None, max_length=256, description="Of TensorRT-LLM under Triton; null: not told."
    )
    settings_digest: str | None = Field(
        default=None,
        max_length=64,
        description="Equal for replicas launched alike; what differs may give other bytes.",
    )
