"""How a replica runs its model, as far as it changes the memory it takes.

The arguments and their meaning are those of llama-server's `--help`; the last one
of a name counts.  An argument that only adds memory is passed over: what is
estimated is then too little, and refuses nothing that fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

CACHE_TYPES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes of one element of the KV cache, by llama.cpp's names of the types."""

_PLACEMENT = frozenset(
    {
        *("-ot", "--override-tensor", "-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe"),
        *("-nkvo", "--no-kv-offload", "-ts", "--tensor-split", "-sm", "--split-mode"),
        *("-dev", "--device", "--rpc"),
    }
)
"""Arguments that put parts of the model elsewhere, in ways not followed here."""
_OTHER_MODEL = frozenset({"-m", "--model", "-hf", "--hf-repo"})
_EMBEDDING = frozenset({"--embedding", "--embeddings", "--rerank", "--reranking"})
_CONTEXT = frozenset({"-c", "--ctx-size"})
_SLOTS = frozenset({"-np", "--parallel"})
_LAYERS = frozenset({"-ngl", "--gpu-layers", "--n-gpu-layers"})
_BATCH = frozenset({"-b", "--batch-size"})
_MICRO_BATCH = frozenset({"-ub", "--ubatch-size"})
_KEYS = frozenset({"-ctk", "--cache-type-k"})
_VALUES = frozenset({"-ctv", "--cache-type-v"})


@dataclass(frozen=True, slots=True)
class Terms:
    """What a replica is asked to hold."""

    ctx_total: int
    """Tokens of context, all slots together."""
    slots: int = 1
    gpu_layers: int | None = None
    """None: all of them, and the output."""
    key_bytes: float = 2.0
    """Of one element of the cache; f16, unless told otherwise."""
    value_bytes: float = 2.0
    batch: int = 512
    """Tokens computed at once; llama.cpp's `--ubatch-size`."""
    logits: bool = True
    """Whether words are predicted; not so where only embeddings are asked for."""


def terms_of(ctx: int, slots: int, arguments: Sequence[str]) -> Terms | None:
    """The terms of a pool; None where its arguments leave no estimate that holds."""
    names = _names(arguments)
    if names & (_PLACEMENT | _OTHER_MODEL):
        return None
    terms = Terms(ctx * slots, slots, logits=not names & _EMBEDDING)
    batch = 2048
    try:
        for name, value in pairwise(arguments):
            if name in _CONTEXT:
                terms = replace(terms, ctx_total=_positive(value))
            elif name in _SLOTS:
                terms = replace(terms, slots=_positive(value))
            elif name in _LAYERS:
                terms = replace(terms, gpu_layers=_gpu_layers(value))
            elif name in _MICRO_BATCH:
                terms = replace(terms, batch=_positive(value))
            elif name in _BATCH:
                batch = _positive(value)
            elif name in _KEYS:
                terms = replace(terms, key_bytes=CACHE_TYPES[value])
            elif name in _VALUES:
                terms = replace(terms, value_bytes=CACHE_TYPES[value])
    except (KeyError, ValueError):
        return None
    return replace(terms, batch=min(terms.batch, batch))


def leaves_all_on_the_cards(arguments: Sequence[str]) -> bool:
    """Whether a command of somebody's own says nothing of keeping parts off the cards."""
    return not _names(arguments) & (_PLACEMENT | _LAYERS)


def _names(arguments: Sequence[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _gpu_layers(text: str) -> int | None:
    if text == "all":
        return None
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number
