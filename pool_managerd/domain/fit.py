"""What memory a model takes on its cards, and whether it is free.

The formulas are llama.cpp's:

- weights: its tensors, without the token embeddings, which stay in the memory of
  the host unless they serve as the output matrix too (`llama-model.cpp`, `load_tensors`);
- KV cache = layers x (key_dim + value_dim) x kv_heads x ctx_total x bytes of an element
  (`llama-kv-cache.cpp`: `n_embd_k_gqa` and `n_embd_v_gqa` elements for each cell and
  layer); layers of a sliding window hold slots x window + batch cells at most
  (`llama-kv-cache-iswa.cpp`);
- compute = batch x (vocabulary + embedding) x 4, the logits and a residual in f32
  for the largest batch (`llama-context.cpp`, `graph_reserve`); for Llama 3 8B it is
  the 258.5 MiB that llama.cpp reports.

Everything here is rather too little than too much: a model that fits must never be
refused, and of one that does not the engine can still say so itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pool_managerd.domain.fit_terms import Terms

GIB = 2**30
OVERHEAD_BYTES = 256 * 1024 * 1024
"""CUDA's own context on each card, before anything is computed; assumed, and rather small."""
CTX_STEP = 256
"""llama.cpp rounds a context up to a multiple of it."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer: bytes of its weights, and elements it caches for a token."""

    weights: int
    keys: int = 0
    values: int = 0
    windowed: bool = False


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What counts of a model."""

    layers: tuple[LayerShape, ...]
    output: int
    """Bytes outside the layers that go with them."""
    vocabulary: int = 0
    embedding: int = 0
    window: int = 0
    """Tokens; for layers that are windowed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of GPU memory: weights and cache on all cards together, the rest on each."""

    weights: int
    kv_cache: int = 0
    compute: int = 0
    overhead: int = 0
    kv_per_token: float = 0.0
    """What one token of context more adds."""
    ctx_total: int = 0
    slots: int = 1

    @property
    def shared(self) -> int:
        """What several cards divide among them."""
        return self.weights + self.kv_cache

    @property
    def each(self) -> int:
        """What every card needs besides its share."""
        return self.compute + self.overhead

    @property
    def total(self) -> int:
        """On one card."""
        return self.shared + self.each


@dataclass(frozen=True, slots=True)
class Card:
    """A card, and its free bytes."""

    uuid: str
    name: str
    index: int
    free: int


def estimate(shape: ModelShape, terms: Terms) -> Estimate:
    """What the model takes on these terms."""
    count = len(shape.layers)
    wanted = count + 1 if terms.gpu_layers is None else terms.gpu_layers
    held = shape.layers[max(0, count - wanted) :]
    fixed = per_token = 0.0
    batch = min(terms.batch, terms.ctx_total)
    window_tokens = min(terms.ctx_total, terms.slots * shape.window + batch)
    for layer in held:
        width = layer.keys * terms.key_bytes + layer.values * terms.value_bytes
        if layer.windowed:
            fixed += width * window_tokens
        else:
            per_token += width
    logits = shape.vocabulary if terms.logits and wanted > count else 0
    return Estimate(
        weights=sum(layer.weights for layer in held) + (shape.output if wanted > count else 0),
        kv_cache=math.ceil(fixed + per_token * terms.ctx_total),
        compute=batch * (logits + shape.embedding) * 4 if wanted else 0,
        overhead=OVERHEAD_BYTES if wanted else 0,
        kv_per_token=per_token,
        ctx_total=terms.ctx_total,
        slots=terms.slots,
    )


def refusal(
    model: str,
    needed: Estimate,
    cards: Sequence[Card],
    reserve: int,
    split: Sequence[float] = (),
) -> str | None:
    """Why the model does not fit on the cards, in numbers; None: it does.

    Args:
        reserve: bytes of each card that stay free.
        split: the cards' shares of the model, in their order; (): equal ones.
    """
    shares = [share / sum(split) for share in split] or [1 / len(cards) for _ in cards]
    for card, share in zip(cards, shares, strict=True):
        room = card.free - reserve
        if _on_card(needed, share) > room:
            fitting = _largest_ctx(needed, cards, shares, reserve)
            return f"{_need(model, needed, card, share)}; {_remedy(needed, room, reserve, fitting)}"
    return None


def _on_card(needed: Estimate, share: float) -> int:
    return math.floor(needed.shared * share) + needed.each


def _largest_ctx(
    needed: Estimate, cards: Sequence[Card], shares: Sequence[float], reserve: int
) -> int:
    """The largest context of a slot with which it would fit; 0: none."""
    if not needed.kv_per_token:
        return 0
    growing = needed.kv_per_token * needed.ctx_total
    tokens = min(
        ((card.free - reserve - needed.each) / share - (needed.shared - growing))
        / needed.kv_per_token
        for card, share in zip(cards, shares, strict=True)
    )
    return max(0, int(tokens / needed.slots) // CTX_STEP * CTX_STEP)


def _need(model: str, needed: Estimate, card: Card, share: float) -> str:
    parts = [f"{_gib(needed.weights * share)} weights"]
    if needed.kv_cache:
        ctx = needed.ctx_total // needed.slots
        slots = f"{needed.slots} slot" + ("s" if needed.slots > 1 else "")
        parts.append(f"{_gib(needed.kv_cache * share)} KV cache (ctx {ctx} x {slots})")
    if needed.each:
        parts.append(f"{_gib(needed.each)} compute")
    part = f", its {share:.0%} of the model" if share < 1 else ""
    return (
        f"{model} needs {_gib(_on_card(needed, share))} GiB on GPU {card.index} ({card.name})"
        f"{part}: {' + '.join(parts)}"
    )


def _remedy(needed: Estimate, room: int, reserve: int, ctx: int) -> str:
    free = f"{_gib(max(0, room))} GiB are free after the reserve of {_gib(reserve)}"
    if not ctx:
        return f"{free}: choose a smaller model or quantisation, or another card"
    slots = " or `slots`" if needed.slots > 1 else ""
    return f"{free}: lower `ctx` to {ctx}{slots}, or choose a smaller quantisation"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"
