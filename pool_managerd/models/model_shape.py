"""What of a GGUF's header the estimate of its memory needs.

The keys are those of `docs/gguf.md` and of llama.cpp's `llama-arch.cpp`.  Where an
architecture caches less than plain attention does, or the file does not tell how
much, the smaller figure is taken.
"""

from __future__ import annotations

from pool_managerd.domain.fit import LayerShape, ModelShape
from pool_managerd.models.gguf_header import GgufHeader

WINDOWS = {"gemma2": 4096, "llama4": 8192}
"""Sliding windows that llama.cpp gives an architecture whose file tells of none, in tokens."""
INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
"""One layer in so many has a cache for each token, where the file does not tell."""


def shape_of(header: GgufHeader) -> ModelShape:
    """The shape of a model, from its header."""
    tensors = header.tensors
    count = max(header.block_count or 0, *(number + 1 for number in tensors.layers), 0)
    return ModelShape(
        layers=tuple(_layer(header, number) for number in range(count)),
        # A tied table is held twice: on the host to look up in, on the card to multiply by.
        output=tensors.output + (tensors.embeddings if tensors.tied else 0),
        vocabulary=header.vocabulary or 0,
        embedding=header.embedding_length or 0,
        window=_window(header),
    )


def _layer(header: GgufHeader, number: int) -> LayerShape:
    predicting = header.number("nextn_predict_layers") or 0
    if number >= (header.block_count or 0) - predicting and predicting:
        # It predicts further tokens, and is not loaded without being asked for.
        return LayerShape(0)
    weights = header.tensors.layers.get(number, 0)
    if not _caches(header, number):
        return LayerShape(weights)
    heads = _at(header.head_count, number)
    heads_kv = heads if header.head_count_kv is None else _at(header.head_count_kv, number)
    if not heads_kv:
        return LayerShape(weights)
    latent = header.number("attention.kv_lora_rank")
    if latent is not None:
        # Multi-head latent attention: one compressed row in place of keys and values.
        return LayerShape(weights, latent + (header.number("rope.dimension_count") or 0))
    width = (header.embedding_length or 0) // heads if heads else 0
    keys = width if header.key_length is None else header.key_length
    values = width if header.value_length is None else header.value_length
    windowed = _is_windowed(header, number)
    if windowed:
        keys = _width(header, "attention.key_length_swa", keys)
        values = _width(header, "attention.value_length_swa", values)
    return LayerShape(weights, keys * heads_kv, values * heads_kv, windowed)


def _width(header: GgufHeader, key: str, otherwise: int) -> int:
    """The width under `key`, where it is told and the smaller one."""
    told = header.number(key)
    return otherwise if told is None else max(0, min(told, otherwise))


def _window(header: GgufHeader) -> int:
    """Tokens of the sliding window; 0: none."""
    told = header.number("attention.sliding_window")
    return WINDOWS.get(header.architecture, 0) if told is None else max(0, told)


def _caches(header: GgufHeader, number: int) -> bool:
    """Whether the layer keeps keys and values of its own for each token."""
    if header.number("attention.causal") == 0:
        return False
    # Layers at the end that use the cache of an earlier one.
    if number >= (header.block_count or 0) - (header.number("attention.shared_kv_layers") or 0):
        return False
    every = header.number("full_attention_interval") or INTERVALS.get(header.architecture)
    return not every or (number + 1) % every == 0


def _is_windowed(header: GgufHeader, number: int) -> bool:
    if not _window(header):
        return False
    pattern = header.facts.get("attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and number < len(pattern):
        return bool(pattern[number])
    return True


def _at(numbers: int | tuple[int, ...] | None, layer: int) -> int:
    """The number of a layer; 0 where it is not told."""
    if isinstance(numbers, tuple):
        return numbers[layer] if layer < len(numbers) else 0
    return numbers or 0
