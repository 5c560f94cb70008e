"""Proofs made by hand: a good one, and what can be done to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contracts.ids import new_uuid
from contracts.pools import FailureReason, ReplicaState
from contracts.proofs import (
    Bar,
    Control,
    Header,
    Output,
    ProvenPool,
    ProvenReplica,
    Round,
    Run,
    Verdict,
    sequence_digest,
)
from contracts.tasks import TaskRequest
from llama_orch.determinism.judge import Judge, Judgement
from llama_orch.determinism.proof_file import Evidence, write_proof
from llama_orch.determinism.sampler import shipped_samplers

MODEL = f"sha256:{'a' * 64}"
OTHER_MODEL = f"sha256:{'b' * 64}"
REPLICAS = ("chat/0", "chat/1")
SEEDS = tuple(range(64))
ROUNDS = (Round.QUIET, Round.LOADED)


def header(**changes: Any) -> Header:
    pool = ProvenPool(
        pool_id="chat",
        engine="llamacpp",
        engine_version="v1",
        model_id="m",
        model_digest=MODEL,
        ctx=128,
        slots=1,
        replicas=tuple(ProvenReplica(replica_id=name, devices=("CPU",)) for name in REPLICAS),
    )
    request = TaskRequest(
        pool_id="chat",
        prompt="The river",
        max_tokens=8,
        determinism="strict",
        sampler_profile_version="balanced-1",
    )
    made = Header(
        created_ms=1,
        llama_orch_version="0",
        pool=pool,
        sampler=shipped_samplers()["balanced-1"],
        request=request,
        seeds=SEEDS,
        rounds=ROUNDS,
    )
    return made.model_copy(update=changes)


def output(*pieces: str, **changes: Any) -> Output:
    made = Output(
        finish_reason="length",
        tokens_in=3,
        tokens_out=len(pieces),
        pieces=pieces,
        sha256=sequence_digest(pieces),
    )
    return made.model_copy(update=changes)


def run(seed: int, replica: str = "chat/0", name: Round = Round.QUIET, **changes: Any) -> Run:
    made = Run(
        round=name,
        seed=seed,
        replica_id=replica,
        task_id=new_uuid(),
        engine_version="v1",
        model_digest=MODEL,
        first_token_ms=2,
        decode_ms=seed,
        output=output(" né", f" {seed}", "\u2028"),
    )
    return made.model_copy(update=changes)


def control(seed: int = 0, **changes: Any) -> Control:
    made = Control(
        seed=seed,
        replica_id="other/0",
        task_id=new_uuid(),
        engine_version="v1",
        model_digest=OTHER_MODEL,
        output=output(" another", " text"),
    )
    return made.model_copy(update=changes)


def bar(**changes: Any) -> Bar:
    made = Bar(
        differs_by="model",
        replica_id="chat/0",
        state=ReplicaState.FAILED,
        reason=FailureReason.DIGEST_MISMATCH,
        message="another model",
    )
    return made.model_copy(update=changes)


def runs() -> list[Evidence]:
    """Every run that a proof of `header()` takes."""
    return [run(seed, replica, name) for name in ROUNDS for replica in REPLICAS for seed in SEEDS]


def judged(head: Header, evidence: Sequence[Evidence]) -> Judgement:
    judge = Judge(head, shipped_samplers())
    for record in evidence:
        judge.add(record)
    return judge.judgement()


def written(path: Path, head: Header, evidence: Sequence[Evidence], **claim: Any) -> Path:
    """The proof as its maker writes it, or with another claim, sealed as it should be."""
    verdict: Verdict = judged(head, evidence).verdict
    write_proof(path, head, evidence, verdict.model_copy(update=claim))
    return path
