"""What of a GGUF's header the estimate of its memory needs.

The keys are those of `docs/gguf.md` and of llama.cpp's `llama-arch.cpp`.  Where an
architecture caches less than plain attention does, or the file does not tell how
much, the smaller figure is taken.
"""

from __future__ import annotations

from pool_managerd.domain.fit import LayerShape, ModelShape
from pool_managerd.models.gguf_header import GgufHeader


def shape_of(header: GgufHeader) -> ModelShape:
    """The shape of a model, from its header."""
    tensors = header.tensors
    count = max(header.block_count or 0, *(number + 1 for number in tensors.layers), 0)
    return ModelShape(
        layers=tuple(_layer(header, number) for number in range(count)),
        output=tensors.output + (tensors.input if tensors.tied else 0),
        vocabulary=header.vocabulary or 0,
        embedding=header.embedding_length or 0,
        window=header.number("attention.sliding_window") or 0,
    )


def _layer(header: GgufHeader, number: int) -> LayerShape:
    weights = header.tensors.layers.get(number, 0)
    if not _caches(header, number):
        return LayerShape(weights)
    latent = header.number("attention.kv_lora_rank")
    if latent is not None:
        # Multi-head latent attention: one compressed row in place of keys and values.
        return LayerShape(weights, latent + (header.number("rope.dimension_count") or 0))
    heads = _at(header.head_count, number)
    heads_kv = heads if header.head_count_kv is None else _at(header.head_count_kv, number)
    width = (header.embedding_length or 0) // heads if heads else 0
    keys = width if header.key_length is None else header.key_length
    values = width if header.value_length is None else header.value_length
    return LayerShape(weights, keys * heads_kv, values * heads_kv, _is_windowed(header, number))


def _caches(header: GgufHeader, number: int) -> bool:
    """Whether the layer keeps keys and values of its own for each token."""
    if header.number("attention.causal") == 0:
        return False
    # Layers that predict further tokens, or that use the cache of an earlier layer.
    without = header.number("nextn_predict_layers") or 0
    without += header.number("attention.shared_kv_layers") or 0
    if number >= (header.block_count or 0) - without:
        return False
    every = header.number("full_attention_interval")
    return not every or (number + 1) % every == 0


def _is_windowed(header: GgufHeader, number: int) -> bool:
    if not header.number("attention.sliding_window"):
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
