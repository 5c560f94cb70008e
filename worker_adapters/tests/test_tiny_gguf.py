"""The generated model.  That it loads and chats is shown in test_llamacpp_engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import gguf
import pytest

from worker_adapters.tiny_gguf import PRESETS, main, write_model

TINY_SHA256 = "9e2730dd24fea0b91111f26327137e55722a2097378823140ae6c0643adbbce4"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_on_every_machine(tmp_path: Path) -> None:
    """LO-WRK-015."""
    write_model(tmp_path / "a.gguf")
    write_model(tmp_path / "b.gguf")
    assert sha256(tmp_path / "a.gguf") == sha256(tmp_path / "b.gguf") == TINY_SHA256


@pytest.mark.parametrize("preset", ["embedding", "rerank", "tools"])
def test_a_model_for_another_work_has_the_same_bytes_each_time_and_bytes_of_its_own(
    preset: str, tmp_path: Path
) -> None:
    """LO-WRK-015."""
    write_model(tmp_path / "a.gguf", preset)
    write_model(tmp_path / "b.gguf", preset)
    assert sha256(tmp_path / "a.gguf") == sha256(tmp_path / "b.gguf") != TINY_SHA256


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    write_model(tmp_path / "a.gguf", seed=8)
    assert sha256(tmp_path / "a.gguf") != TINY_SHA256


def test_every_preset_describes_itself(tmp_path: Path) -> None:
    for preset, shape in PRESETS.items():
        path = tmp_path / "m.gguf"
        write_model(path, preset)
        blocks = gguf.GGUFReader(path).get_field(f"{shape.architecture}.block_count")
        assert blocks is not None
        assert blocks.contents() == shape.layers
        assert path.stat().st_size < 250_000_000


def test_a_model_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    write_model(path)
    assert path.read_bytes().startswith(b"GGUF")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    assert main([str(path)]) == 1
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "no" / "m.gguf")]) == 1
    assert capsys.readouterr().err == (
        f"tiny_gguf: cannot write {tmp_path}/no/m.gguf: No such file or directory\n"
    )


@pytest.mark.parametrize("wrong", [["--preset", "huge"], ["--seed", "-1"], []])
def test_a_wrong_argument_is_a_usage_error(wrong: list[str], tmp_path: Path) -> None:
    out = [str(tmp_path / "m.gguf")] if wrong else []
    with pytest.raises(SystemExit, match="2"):
        main([*out, *wrong])
