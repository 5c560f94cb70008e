"""The generated model as a Hugging Face folder, for vLLM and TGI.

    python -m test_harness.tiny_models.tiny_hf OUT --preset tiny

The same weights, words and chat template as `worker_adapters.tiny_gguf` writes for
the preset, so that two engines can be held against each other.  Only numpy is
needed: safetensors is a header of JSON and the bytes of the tensors, and a
tokenizer file is JSON too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from worker_adapters.tiny_gguf import CONTEXT, PRESETS, Array, Preset, tensors
from worker_adapters.tiny_vocabulary import (
    CHAT_TEMPLATE,
    CONTROL,
    PAD,
    TURN_END,
    Vocabulary,
    vocabulary,
)

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The names of llama.cpp's tensors in transformers' Llama."""


def write_folder(folder: Path, preset: str = "tiny", seed: int = 7) -> None:
    """Write the model of `preset` and `seed` into `folder`, which is made.

    Raises:
        KeyError: there is no such preset.
        OSError: it cannot be written there.
    """
    shape, words = PRESETS[preset], vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": _config(shape, words),
        "generation_config.json": _special(words),
        "tokenizer.json": _tokenizer(words),
        "tokenizer_config.json": _tokenizer_config(),
    }
    for name, data in files.items():
        (folder / name).write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n")
    _write_tensors(folder / "model.safetensors", shape, seed, words)


def _config(shape: Preset, words: Vocabulary) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": len(words.tokens),
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "attention_bias": False,
        **_special(words),
    }


def _special(words: Vocabulary) -> dict[str, int]:
    pad, end = words.tokens.index(PAD), words.tokens.index(TURN_END)
    return {"bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad}


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": PAD,
        "eos_token": TURN_END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _tokenizer(words: Vocabulary) -> dict[str, Any]:
    """Byte-level BPE as GPT-2's, in the format of the `tokenizers` library."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_control(words, token) for token in CONTROL],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(words.tokens)},
            "merges": [merge.split(" ") for merge in words.merges],
        },
    }


def _control(words: Vocabulary, token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": words.tokens.index(token), "content": token, **flags, "special": True}


def _write_tensors(path: Path, shape: Preset, seed: int, words: Vocabulary) -> None:
    """A length, a header that says where each tensor lies, and the tensors."""
    found = {
        _named(name): _unwoven(name, data, shape)
        for name, data in tensors(shape, seed, words.tokens)
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, data in found.items():
        begin, end = end, end + data.size * 4
        place = [begin, end]
        header[name] = {"dtype": "F32", "shape": list(data.shape), "data_offsets": place}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for data in found.values():
            file.write(np.ascontiguousarray(data, "<f4").tobytes())


def _unwoven(name: str, data: Array, shape: Preset) -> Array:
    """Rows of queries and keys: llama.cpp turns neighbors, transformers turns halves."""
    heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return data
    woven = data.reshape(heads, -1, 2, data.shape[1])
    return woven.swapaxes(1, 2).reshape(data.shape)


def _named(name: str) -> str:
    """`blk.3.attn_q.weight` as `model.layers.3.self_attn.q_proj.weight`."""
    *layer, tensor, _ = name.split(".")
    prefix = f"model.layers.{layer[1]}." if layer else ""
    return f"{prefix}{NAMES[tensor]}.weight"


def main(argv: list[str] | None = None) -> int:
    """Write one folder; 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m test_harness.tiny_models.tiny_hf",
        description="Write a small random Hugging Face model.",
        allow_abbrev=False,
    )
    parser.add_argument("out", type=Path, help="the folder")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
    arguments = parser.parse_args(argv)
    try:
        write_folder(arguments.out, arguments.preset)
    except OSError as error:
        sys.stderr.write(f"tiny_hf: cannot write {arguments.out}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
