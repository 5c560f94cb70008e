"""Two replicas, 64 seeds, real llama.cpp: byte for byte, whatever goes on around them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from contracts.proofs import Round, Run
from llama_orch.determinism.verify import verify_file
from test_harness.determinism.conftest import CONTROL_SEEDS, SEEDS
from test_harness.determinism.evidence import REPLICAS, Proving
from test_harness.stack import child_environment

pytestmark = pytest.mark.slow


def pieces(runs: list[Run]) -> set[tuple[str, ...]]:
    return {run.output.pieces for run in runs}


@pytest.mark.parametrize("name", list(Round), ids=lambda name: name.value)
def test_every_seed_gives_the_same_bytes_on_both_replicas(proving: Proving, name: Round) -> None:
    """LO-DET-001, LO-DET-002, LO-DET-003: held against the first run at rest, piece by piece."""
    first = {run.seed: run for run in reversed(proving.runs) if run.round is Round.QUIET}
    seen = defaultdict(set)
    for run in proving.runs:
        if run.round is name:
            assert run.output.pieces == first[run.seed].output.pieces
            assert run.output == first[run.seed].output
            seen[run.replica_id].add(run.seed)
    for replica in REPLICAS:
        assert seen[replica] == set(SEEDS)


def test_the_loaded_round_was_loaded(proving: Proving) -> None:
    """LO-DET-002: other tasks ran between the seeds, on every slot."""
    assert proving.load_tasks > len(SEEDS)


def test_the_texts_are_long_enough_to_differ(proving: Proving) -> None:
    """LO-DET-004: 64 seeds, 64 texts, and no text of a word or two."""
    assert len(pieces(proving.runs)) == len(SEEDS)
    lengths = sorted(len(each) for each in pieces(proving.runs))
    assert lengths[len(lengths) // 2] > 40


def test_another_model_gives_other_texts(proving: Proving) -> None:
    """LO-DET-004."""
    proven = {run.seed: run for run in proving.runs}
    assert len(proving.controls) == CONTROL_SEEDS
    for control in proving.controls:
        assert control.model_digest != proven[control.seed].model_digest
        assert control.engine_version == proven[control.seed].engine_version
        assert control.output.pieces != proven[control.seed].output.pieces


def test_a_replica_of_another_model_did_not_serve(proving: Proving) -> None:
    """LO-DET-005: its file was exchanged under it, and it waited until that was undone."""
    (bar,) = proving.bars
    assert bar.replica_id == REPLICAS[1]
    assert bar.reason.value == "DIGEST_MISMATCH"


def test_the_proof_holds_and_lacks_no_round(proof: Path) -> None:
    """LO-DET-011, LO-DET-018: latency is told for each device."""
    header, judgement, _ = verify_file(proof)
    assert judgement.failure is None
    assert judgement.proven
    assert judgement.not_held == ("a replica of another engine version is kept from serving",)
    assert header.pool.engine == "llamacpp"
    assert header.pool.engine_version.startswith("xllamacpp ")
    for latency in judgement.latencies:
        assert latency.devices == ("CPU",)
        assert latency.runs >= len(Round) * len(SEEDS)
        assert latency.token_ms is not None
        assert latency.token_ms > 0


def test_the_command_verifies_it_without_anything_else(proof: Path, tmp_path: Path) -> None:
    """LO-DET-011: in an empty home, with no daemon."""
    done = subprocess.run(
        [sys.executable, "-m", "llama_orch", "determinism", "verify", str(proof), "--json"],
        env=child_environment() | {"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["proven"] is True
    assert told["rounds"] == [each.value for each in Round]


def test_one_character_of_one_run_undoes_it(proof: Path, tmp_path: Path) -> None:
    """LO-DET-012: in the real proof as in a made one."""
    content = proof.read_bytes()
    word = content.index(b'" mountain"' if b'" mountain"' in content else b'" river"')
    changed = tmp_path / "changed.jsonl"
    changed.write_bytes(content[: word + 1] + b"_" + content[word + 2 :])
    done = subprocess.run(
        [sys.executable, "-m", "llama_orch", "determinism", "verify", str(changed)],
        env=child_environment() | {"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "it is not as it was sealed" in done.stderr
