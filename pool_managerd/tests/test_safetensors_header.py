"""Headers of safetensors models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pool_managerd.models.safetensors_header import SafetensorsError, model_bytes


def model(root: Path, header: Any, data: int, name: str = "model.safetensors") -> Path:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    (root / name).write_bytes(len(content).to_bytes(8, "little") + content + bytes(data))
    (root / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    return root


def at(begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": "F16", "shape": [1], "data_offsets": [begin, end]}


def test_the_tensors_of_all_files_are_added_up(tmp_path: Path) -> None:
    """LO-POOL-090."""
    model(tmp_path, {"__metadata__": {"format": "pt"}, "a": at(0, 6), "b": at(6, 10)}, 10)
    model(tmp_path, {"c": at(0, 4)}, 4, "model-2.safetensors")
    assert model_bytes(tmp_path) == 14


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": at(0, 11)}, "cut off: tensor 'a' ends 11 bytes into the data, which has 10"),
        ({"a": at(0, 8), "b": at(0, 8)}, "overlap"),
        ({"a": at(8, 0)}, "where it is"),
        ({"a": at(-1, 0)}, "where it is"),
        ({"a": at(0.0, 1e9)}, "where it is"),
        ({"a": 1}, "where it is"),
        ([], "no JSON object"),
        ({"a": at(False, True)}, "where it is"),
        (b'{"a": {}, "a": {}}', "the key 'a' is repeated"),
        (b'{"a": [' + b"1," * 2**20 + b"1]}", "more than .* values"),
        (b'{"a": [' + b"{}" * 262_143 + b"]}", "more than 262144 brackets"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff", "no JSON"),
    ],
)
def test_a_header_that_is_not_sound_is_refused(tmp_path: Path, header: Any, words: str) -> None:
    """LO-POOL-090."""
    with pytest.raises(SafetensorsError, match=words):
        model_bytes(model(tmp_path, header, 10))


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    """LO-POOL-090."""
    whole = (model(tmp_path, {"a": at(0, 10)}, 10) / "model.safetensors").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(SafetensorsError, match=r"model\.safetensors"):
            model_bytes(tmp_path)


def test_a_directory_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        model_bytes(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(SafetensorsError, match="0 files"):
        model_bytes(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SafetensorsError, match="names no architecture"):
        model_bytes(tmp_path)
