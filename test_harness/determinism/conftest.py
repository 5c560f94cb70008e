"""The stack that a proof is about, and the proof of it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.pools import FailureReason, ReplicaState
from contracts.proofs import SEEDS_MIN, Round
from contracts.sampler_profiles import DEFAULT_STRICT
from llama_orch.determinism.sampler import shipped_samplers
from llama_orch.determinism.subject import Ask
from test_harness.determinism.evidence import (
    OTHER,
    POOL,
    Proving,
    kill_engine,
    restart_engine,
    wait_for_replica,
)
from test_harness.stack import Stack, running_stack
from test_harness.task_client import TaskClient
from worker_adapters.tiny_gguf import write_model

PROOF_DIR = os.environ.get("LLORCH_PROOF_DIR")
"""Where the proof is kept, if anywhere."""
SEEDS = tuple(range(SEEDS_MIN))
CONTROL_SEEDS = 16
ASK = Ask(
    pool_id=POOL,
    prompt="The river and the mountain",
    max_tokens=64,
    sampler=shipped_samplers()[DEFAULT_STRICT],
    seeds=SEEDS,
    rounds=tuple(Round),
)


def llamacpp_pool(pool_id: str, model: Path, replicas: int, slots: int = 1) -> dict[str, Any]:
    """Real llama.cpp on the CPU."""
    return {
        "id": pool_id,
        "engine": "llamacpp",
        "model": {"id": pool_id, "ref": f"file:{model}"},
        "ctx": 512,
        "slots": slots,
        "replicas": [{"devices": []}] * replicas,
        "provisioning": {"mode": "embedded"},
        "restart": {"base_ms": 50, "cap_ms": 200},
    }


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models of one shape and different weights."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "proven.gguf", "tiny", seed=7)
    write_model(folder / "other.gguf", "tiny", seed=8)
    return folder


@pytest.fixture(scope="session")
def proving(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proving]:
    """All evidence, from daemons that ran through every round."""
    root = tmp_path_factory.mktemp("proving")
    served = root / "served.gguf"
    shutil.copy(models / "proven.gguf", served)
    pools = [
        llamacpp_pool(POOL, served, replicas=2),
        llamacpp_pool(OTHER, models / "other.gguf", replicas=1),
    ]
    with running_stack(root, pools) as stack:
        stack.wait_serving(POOL, replicas=2)
        stack.wait_serving(OTHER)
        made = Proving.begin(stack, ASK, time.time_ns() // 1_000_000)
        made.round(Round.QUIET)
        made.round(Round.LOADED)
        made.control(CONTROL_SEEDS)
        _try_another_model(made, served, models)
        restart_engine(stack, 0)
        made.round(Round.ENGINE_RESTARTED)
        stack.daemons["pool_managerd"].stop(signal.SIGTERM)
        stack.start("pool_managerd").wait_ready()
        _wait_for_both(stack)
        made.round(Round.POOL_MANAGERD_RESTARTED)
        stack.daemons["orchestratord"].stop(signal.SIGKILL)
        stack.start("orchestratord").wait_ready()
        _wait_for_both(stack)
        made.round(Round.ORCHESTRATORD_RESTARTED)
        yield made


@pytest.fixture(scope="session")
def proof(proving: Proving, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The proof of all that, in LLORCH_PROOF_DIR where that is given."""
    folder = Path(PROOF_DIR) if PROOF_DIR else tmp_path_factory.mktemp("proof")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"llamacpp-cpu-{proving.header.created_ms}.jsonl"
    proving.write(path)
    return path


def _try_another_model(made: Proving, served: Path, models: Path) -> None:
    """Restart one engine over another file: it must not serve until its file is back."""
    _put(models / "other.gguf", served)
    dead = kill_engine(made.stack, 1)
    barred = wait_for_replica(
        made.stack,
        1,
        lambda replica: (
            replica.state is ReplicaState.FAILED
            and replica.last_error is not None
            and replica.last_error.reason is FailureReason.DIGEST_MISMATCH
        ),
        "is kept from serving",
    )
    made.bar(barred)
    with TaskClient(made.stack) as client:
        asked = {"model": None, "pool_id": POOL, "max_tokens": 2, "determinism": "strict"}
        tasks = [client.accept(seed=seed, **asked) for seed in range(8)]
        ran = {client.collect(task)[0].data["replica_id"] for task in tasks}
    assert ran == {f"{POOL}/0"}
    _put(models / "proven.gguf", served)
    wait_for_replica(
        made.stack,
        1,
        lambda replica: replica.state is ReplicaState.READY and replica.pid != dead,
        "serves its own model again",
    )


def _put(model: Path, place: Path) -> None:
    """Put a model there in one step: who has the other one open keeps it."""
    beside = place.with_suffix(".new")
    shutil.copy(model, beside)
    beside.replace(place)


def _wait_for_both(stack: Stack) -> None:
    for index in range(2):
        wait_for_replica(stack, index, lambda r: r.state is ReplicaState.READY, "serves")
