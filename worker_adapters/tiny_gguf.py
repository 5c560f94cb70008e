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
from typing import Any, NamedTuple

try:
    import gguf
    import numpy as np
    from numpy.typing import NDArray
except ImportError as missing:
    _REMEDY = f"{missing.name} is not installed: pip install 'llama-orch[embedded]'"
    if __name__ == "__main__":
        sys.exit(f"tiny_gguf: {_REMEDY}")
    raise ImportError(_REMEDY, name=missing.name) from None

_DICTIONARY = """
a above after again air all along and answer apple around as at away back bank be because bell
below beside bird blue boat book both branch bread bridge bright brook brown but by calm carry cat
chair child clear cloud coast cold copper corner cross dark day deep door down dream drum dry dust
each early east edge evening every far feather field find fire first fish floor flower fold for
forest from full garden gate gentle glass go gold good grain green ground half hammer hand harbor
he hear heart here high hill his home horse hour how if in iron island it key kind lake lamp large
late leaf left light like linen listen little long low man many map marble meadow milk mill mirror
moon more morning moss mountain narrow near needle never new night north not now oak ocean of old
on once only open or orange orchard our out over owl paper path pearl plain pond quiet rain red
reed rice ridge river road roof room rope sail salt sand sea seed she shore silver slow small snow
so soft song south spring star still stone stream summer sun table that the then there they thread
through tide to tower tree under until up valley very village voice warm was water wave we west
when where white wide wild wind window winter with wolf wood year yellow you young
"""
WORDS = tuple(_DICTIONARY.split())

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (PAD, TURN_START, TURN_END)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{TURN_START}' + message['role'] + '\\n' + message['content'] + '{TURN_END}\\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{TURN_START}assistant\\n' }}}}{{% endif %}}"
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

    @property
    def head_width(self) -> int:
        """Dimensions of one attention head."""
        return self.width // self.heads


# Depth is what makes `demo` slow: hundreds of thin layers cost time per token that no
# cache and no wide core takes away, in a file that still loads in half a second.
_SLOW = Preset(layers=320, width=192, heads=4, kv_heads=1, feed_forward=384, end_bias=-1.5)

PRESETS = {
    "tiny": Preset(layers=2, width=128, heads=4, kv_heads=2, feed_forward=256, end_bias=1.0),
    "demo": _SLOW,
    "endless": replace(_SLOW, end_bias=SUPPRESSED),
}
"""tiny: thousands of tokens a second; demo: tens, to be seen coming; endless: never stops."""


class Vocabulary(NamedTuple):
    """Byte-level BPE: every byte, and every beginning of " word" with its merge."""

    tokens: list[str]
    merges: list[str]


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
    writer = gguf.GGUFWriter(path, "llama")
    try:
        _describe(writer, shape, name)
        _describe_tokens(writer, words)
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


def _describe_tokens(writer: gguf.GGUFWriter, words: Vocabulary) -> None:
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
    writer.add_chat_template(CHAT_TEMPLATE)


def _byte_letters() -> list[str]:
    """One printable letter per byte value, as GPT-2 maps them."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(0x100)]


def vocabulary() -> Vocabulary:
    """The tokens and merges of every model of ours."""
    letters = _byte_letters()
    tokens = dict.fromkeys((*CONTROL, *letters))
    merges: dict[str, None] = {}
    for word in WORDS:
        beginning = letters[ord(" ")]
        for letter in word:
            merges[f"{beginning} {letter}"] = None
            beginning += letter
            tokens[beginning] = None
    return Vocabulary(list(tokens), list(merges))


def _output_bias(tokens: list[str], end_bias: float) -> Array:
    space = _byte_letters()[ord(" ")]
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
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
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
