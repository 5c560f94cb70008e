"""What a running llama.cpp server can be asked for, by its own answers."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.tasks import Workload
from worker_adapters.base import EngineCapabilities
from worker_adapters.errors import EngineProtocolError, EngineRefused
from worker_adapters.llamacpp_dialect import Props, Slot, answered_error
from worker_adapters.transport import Answer

PROBE = b"{}"
"""Asks for nothing: a route that is served says what is missing, one that is not says so."""
UNSERVED = (404, 405, 501)
"""How it answers where a route is off, or younger than the server."""

GENERATION = frozenset(
    {
        *(Feature.CANCEL, Feature.SEED, Feature.STOP, Feature.TEMPERATURE),
        *(Feature.TOP_P, Feature.TOP_K, Feature.MIN_P, Feature.REPETITION_PENALTY),
        *(Feature.PRESENCE_PENALTY, Feature.FREQUENCY_PENALTY),
        *(Feature.JSON_SCHEMA, Feature.GRAMMAR),
        *(Feature.TOKENIZE, Feature.PREFIX_CACHE, Feature.SLOTS),
    }
)
VECTORS = frozenset({Feature.CANCEL, Feature.TOKENIZE})

NO_POOLING = (
    "its model names no pooling, so it cannot embed: serve a model that was made for it, or use"
    ' `mode: binary` with `engine_args: ["--pooling", "mean"]`, or what its authors name'
)


def abilities(
    props: Props, slots: Sequence[Slot] | None, *, embeds: bool, ranks: bool
) -> EngineCapabilities:
    """What it can be asked for.

    A server that embeds or ranks would complete texts too, but it was started for
    batches of another size, and one that ranks gives vectors that mean nothing.
    """
    if ranks:
        workloads, features = frozenset({Workload.RERANK}), VECTORS
    elif embeds:
        workloads, features = frozenset({Workload.EMBEDDING}), VECTORS
    else:
        workloads, features = frozenset({Workload.COMPLETION, Workload.CHAT}), GENERATION
        caps = props.chat_template_caps
        if caps is not None and caps.supports_tools:
            features |= {Feature.TOOLS}
    return EngineCapabilities(workloads, features, _strict_refusal(props, slots))


def is_served(probed: Answer) -> bool:
    """Whether the route that answered `PROBE` serves.

    Raises:
        EngineRefused: it would, with another model or more arguments.
        EngineError: it does not tell now.
    """
    if probed.status in UNSERVED:
        return False
    if probed.status == 200:
        raise EngineProtocolError("the server answers a question that asks for nothing")
    refused = answered_error(probed.status, probed.body, probed.headers.get("Retry-After"))
    if probed.status != 400:
        raise refused
    if "pooling type" in refused.message.lower():
        raise EngineRefused(NO_POOLING, code=ErrorCode.INVALID_PARAMS, status=probed.status)
    return True


def _strict_refusal(props: Props, slots: Sequence[Slot] | None) -> str | None:
    """Why equal requests may give other bytes.

    One slot decodes alone: what runs beside it changes neither the size of a batch
    nor the order of a sum.
    """
    if props.total_slots > 1:
        return (
            f"llama.cpp decodes its {props.total_slots} slots in one batch, whose size changes the"
            " last bits of every sum: set `slots: 1`"
        )
    if not slots or any(slot.speculative is None for slot in slots):
        return (
            "the server does not tell whether it guesses tokens ahead: start it with `--slots`, in"
            " a version that tells"
        )
    if any(slot.speculative for slot in slots):
        return (
            "the server guesses tokens ahead, which changes the size of its batches: start it"
            " without a draft model"
        )
    return None
