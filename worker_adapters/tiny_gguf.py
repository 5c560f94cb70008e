"""A small random model that real llama.cpp loads, chats with and serves.

    python -m worker_adapters.tiny_gguf OUT.gguf --preset demo --seed 7

Nothing is downloaded and nothing is learned: it writes random words.  The same
preset and seed give the same bytes on every machine, because each weight is one
of 256 fixed values chosen by one byte of a PCG64 stream.

How random weights write words, and stop by themselves: Llama has no output
bias, so one is built.  Residual dimension 0 is a constant: every embedding row
holds `CONSTANT` there and no layer writes to it.  After the last RMSNorm it is
a positive number, so column 0 of the output matrix adds a bias of its own to
each token: 0 for whole words, `SUPPRESSED` for bytes, word parts and control
tokens, and one of choice for end-of-turn, which sets how long answers get.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

try:
    import gguf
    import numpy as np
    from numpy.typing import NDArray
except ImportError as missing:
    _REMEDY = f"{missing.name} is not installed: pip install 'llama-orch[embedded]'"
    if __name__ == "__main__":
        sys.exit(f"tiny_gguf: {_REMEDY}")
    raise ImportError(_REMEDY, name=missing.name) from None

from worker_adapters.tiny_vocabulary import (
    CHAT_TEMPLATE,
    CONTROL,
    PAD,
    TOOL_TEMPLATE,
    TURN_END,
    WORDS,
    Vocabulary,
    byte_letters,
    vocabulary,
)

CONTEXT = 8192
CONSTANT = 3.0
SUPPRESSED = -40.0
RESIDUAL_RMS = 2.0**0.5
"""Embeddings have variance 1 and all layers together add 1."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Preset:
    """The shape of a model, which sets its speed, and how readily it stops."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    end_bias: float
    """Of end-of-turn, in logits; 1.0 ends after some tens of words, -1.5 after hundreds."""
    architecture: Literal["llama", "qwen3"] = "llama"
    """qwen3 is the one that has a head to rank with."""
    pooling: gguf.PoolingType | None = None
    """How the vectors of a text become one; None: it was not made for that."""
    template: str = CHAT_TEMPLATE

    @property
    def head_width(self) -> int:
        """Dimensions of one attention head."""
        return self.width // self.heads


# Depth is what makes `demo` slow: hundreds of thin layers cost time per token that no
# cache and no wide core takes away, in a file that still loads in half a second.
_SLOW = Preset(layers=320, width=192, heads=4, kv_heads=1, feed_forward=384, end_bias=-1.5)

_TINY = Preset(layers=2, width=128, heads=4, kv_heads=2, feed_forward=256, end_bias=1.0)

PRESETS = {
    "tiny": _TINY,
    "demo": _SLOW,
    "endless": replace(_SLOW, end_bias=SUPPRESSED),
    "tools": replace(_TINY, template=TOOL_TEMPLATE),
    "embedding": replace(_TINY, pooling=gguf.PoolingType.MEAN),
    "rerank": replace(_TINY, architecture="qwen3", pooling=gguf.PoolingType.RANK),
}
"""tiny: thousands of tokens a second; demo: tens, to be seen coming; endless: never stops.

tools: its chat template knows tools; embedding and rerank: made for that alone.
"""


def write_model(path: Path, preset: str = "tiny", seed: int = 7) -> None:
    """Write the model of `preset` and `seed` to `path`, whole or not at all.

    Raises:
        KeyError: there is no such preset.
        OSError: it cannot be written there.
    """
    shape = PRESETS[preset]
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        _write(unfinished, shape, seed, f"llama-orch {preset}")
        unfinished.replace(path)


def _write(path: Path, shape: Preset, seed: int, name: str) -> None:
    words = vocabulary()
    writer = gguf.GGUFWriter(path, shape.architecture)
    try:
        _describe(writer, shape, name)
        _describe_tokens(writer, words, shape.template)
        for tensor_name, tensor in tensors(shape, seed, words.tokens):
            writer.add_tensor(tensor_name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _describe(writer: gguf.GGUFWriter, shape: Preset, name: str) -> None:
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_layer_norm_rms_eps(1e-5)
    if shape.architecture == "qwen3":
        writer.add_key_length(shape.head_width)
        writer.add_value_length(shape.head_width)
    if shape.pooling is not None:
        writer.add_pooling_type(shape.pooling)
    if shape.pooling is gguf.PoolingType.RANK:
        writer.add_array(f"{shape.architecture}.classifier.output_labels", ["yes", "no"])


def _describe_tokens(writer: gguf.GGUFWriter, words: Vocabulary, template: str) -> None:
    kinds = [
        gguf.TokenType.CONTROL if token in CONTROL else gguf.TokenType.NORMAL
        for token in words.tokens
    ]
    end = words.tokens.index(TURN_END)
    writer.add_vocab_size(len(words.tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words.tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(words.merges)
    writer.add_bos_token_id(words.tokens.index(PAD))
    writer.add_pad_token_id(words.tokens.index(PAD))
    writer.add_eos_token_id(end)
    writer.add_eot_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)


def _output_bias(tokens: list[str], end_bias: float) -> Array:
    space = byte_letters()[ord(" ")]
    bias = {space + word: 0.0 for word in WORDS} | {TURN_END: end_bias}
    return np.array([bias.get(token, SUPPRESSED) for token in tokens], np.float32)


class _Weights:
    """Random matrices of standard deviation `scale`, one byte of the stream per weight."""

    _LEVELS = (np.arange(256) - 127.5) / np.std(np.arange(256))

    def __init__(self, seed: int) -> None:
        self._stream = np.random.PCG64(seed)

    def matrix(self, rows: int, columns: int, scale: float) -> Array:
        size = rows * columns
        words = self._stream.random_raw(-(-size // 8)).astype("<u8")
        levels = (self._LEVELS * scale).astype(np.float16)
        return levels[words.view(np.uint8)[:size]].reshape(rows, columns)


def tensors(shape: Preset, seed: int, tokens: list[str]) -> Iterator[tuple[str, Array]]:
    """Every tensor, under its GGUF name, as [outputs, inputs]."""
    weights = _Weights(seed)
    ones = np.ones(shape.width, np.float32)
    embedding = weights.matrix(len(tokens), shape.width, 1.0)
    embedding[:, 0] = CONSTANT
    output = weights.matrix(len(tokens), shape.width, 2.0 * shape.width**-0.5)
    output[:, 0] = _output_bias(tokens, shape.end_bias) * (RESIDUAL_RMS / CONSTANT)
    yield "token_embd.weight", embedding
    yield "output.weight", output
    yield "output_norm.weight", ones
    for layer in range(shape.layers):
        for name, tensor in _layer(shape, weights, ones):
            yield f"blk.{layer}.{name}.weight", tensor
    if shape.pooling is gguf.PoolingType.RANK:
        yield "cls.output.weight", weights.matrix(2, shape.width, shape.width**-0.5)


def _layer(shape: Preset, weights: _Weights, ones: Array) -> Iterator[tuple[str, Array]]:
    width, inner, kv = shape.width, shape.feed_forward, shape.kv_heads * shape.head_width
    narrow, wide = width**-0.5, inner**-0.5
    # All that the layers add has variance 1 together, however many they are.
    share = (2 * shape.layers) ** -0.5
    attention = weights.matrix(width, width, narrow * share)
    mlp = weights.matrix(width, inner, wide * share * 2.0)
    attention[0] = mlp[0] = 0.0
    yield "attn_norm", ones
    yield "attn_q", weights.matrix(width, width, narrow)
    yield "attn_k", weights.matrix(kv, width, narrow)
    yield "attn_v", weights.matrix(kv, width, narrow)
    if shape.architecture == "qwen3":
        yield "attn_q_norm", ones[: shape.head_width]
        yield "attn_k_norm", ones[: shape.head_width]
    yield "attn_output", attention
    yield "ffn_norm", ones
    yield "ffn_gate", weights.matrix(inner, width, narrow)
    yield "ffn_up", weights.matrix(inner, width, narrow)
    yield "ffn_down", mlp


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise ValueError
    return seed


def main(argv: list[str] | None = None) -> int:
    """Write one model; 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m worker_adapters.tiny_gguf",
        description="Write a small random GGUF model.",
        allow_abbrev=False,
    )
    parser.add_argument("out", type=Path, help="where the model goes")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny", help="default: tiny")
    parser.add_argument("--seed", type=_seed, default=7, metavar="N")
    arguments = parser.parse_args(argv)
    try:
        write_model(arguments.out, arguments.preset, arguments.seed)
    except OSError as error:
        sys.stderr.write(f"tiny_gguf: cannot write {arguments.out}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
