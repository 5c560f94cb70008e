"""`up --model`: a file and a few numbers become a configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Binary, Config, Embedded
from contracts.ids import MODEL_ID_PATTERN
from llama_orch import single_model
from llama_orch.failures import Failed, UsageMistake
from llama_orch.single_model import gguf_problem, model_id, with_single_model

HEADER = b"GGUF" + bytes(60)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "Qwen2.5 7B (Q4_K_M).gguf"
    path.write_bytes(HEADER)
    return path


@pytest.fixture(autouse=True)
def _no_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(single_model, "GPU_DIRECTORY", tmp_path / "gpus")


@pytest.fixture
def llama_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin/llama-server"
    program.parent.mkdir()
    program.touch(mode=0o700)
    monkeypatch.setenv("PATH", str(program.parent))


def made(model: Path, devices: str | None = None) -> Config:
    return with_single_model(Config(), model, ctx=2048, slots=3, devices=devices)


@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=200))
def test_any_file_name_gives_a_model_id(name: str) -> None:
    assert re.fullmatch(MODEL_ID_PATTERN, model_id(Path("/models") / name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2.5-7b-q4_k_m.gguf", "qwen2.5-7b-q4_k_m"),
        ("Qwen2.5 7B (Q4_K_M).gguf", "Qwen2.5-7B-Q4_K_M"),
        (".gguf", "model"),
        ("模型.gguf", "model"),
        ("-x.gguf", "x"),
    ],
)
def test_a_model_id_is_what_a_person_would_expect(name: str, expected: str) -> None:
    assert model_id(Path(name)) == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not a GGUF file"),
        (b"GGU", "is not a GGUF file"),
        (b"PK\x03\x04" + bytes(60), "is not a GGUF file"),
        (b"GGUF\x03", "is cut off: it holds 5 bytes"),
        (HEADER, None),
    ],
)
def test_a_file_is_known_by_its_first_bytes(
    tmp_path: Path, content: bytes, problem: str | None
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    found = gguf_problem(path)
    assert (found is None) if problem is None else (found is not None and problem in found)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    assert gguf_problem(tmp_path) == f"{tmp_path} is a directory; name the .gguf file in it"
    assert gguf_problem(tmp_path / "no") == f"{tmp_path}/no does not exist"


def test_without_cards_the_model_runs_on_the_cpu(model: Path) -> None:
    pool = made(model).pools[0]
    assert isinstance(pool.provisioning, Embedded)
    assert pool.replicas[0].devices == ()
    assert (pool.ctx, pool.slots, pool.model.id) == (2048, 3, "Qwen2.5-7B-Q4_K_M")


def test_with_cards_the_cpu_is_never_chosen_silently(model: Path, tmp_path: Path) -> None:
    (tmp_path / "gpus/0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus/0000:02:00.0").mkdir()
    with pytest.raises(
        UsageMistake, match=re.escape("2 NVIDIA cards: choose with `--devices 0,1`")
    ):
        made(model)
    assert made(model, "cpu").pools[0].replicas[0].devices == ()


@pytest.mark.usefixtures("llama_server")
def test_each_card_gets_a_replica_of_llama_server(model: Path) -> None:
    pool = made(model, "0, GPU-1a2b").pools[0]
    assert isinstance(pool.provisioning, Binary)
    assert [replica.devices for replica in pool.replicas] == [(0,), ("GPU-1a2b",)]


def test_cards_without_llama_server_are_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Failed, match="no `llama-server` on PATH"):
        made(model, "0")


@pytest.mark.parametrize("devices", ["", "0,", "gpu", "-1", "0;1", "GPU-"])
def test_what_is_no_card_is_refused(model: Path, devices: str) -> None:
    with pytest.raises(UsageMistake, match="is no card"):
        made(model, devices)


def test_the_rest_of_the_configuration_is_kept(model: Path) -> None:
    base = Config(state_dir="/somewhere")
    config = with_single_model(base, model, ctx=16, slots=1, devices="cpu")
    assert config.state_dir == "/somewhere"


def test_a_model_is_served_for_what_it_was_made_for(model: Path) -> None:
    """LO-CMD-085."""
    shape: Any = {"ctx": 512, "slots": 1, "devices": "cpu"}
    [pool] = with_single_model(Config(), model, workload="embedding", **shape).pools
    assert pool.workload == "embedding"
    [pool] = with_single_model(Config(), model, **shape).pools
    assert pool.workload == "generation"
    with pytest.raises(UsageMistake, match="--workload: write one of generation, embedding"):
        with_single_model(Config(), model, workload="chat", **shape)
