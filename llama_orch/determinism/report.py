"""What a judgement looks like: to a person, and to a script."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from contracts.proofs import Header
from llama_orch.determinism.judge import Judgement
from llama_orch.determinism.latency import ReplicaLatency
from llama_orch.output import Output, printable
from llama_orch.tables import of_rows


def report(output: Output, header: Header, judgement: Judgement, sha256: str) -> None:
    """Everything that was found; under `--json` one object."""
    if output.json_mode:
        output.emit(as_json(header, judgement, sha256))
        return
    pool = header.pool
    output.write(
        f"pool {pool.pool_id}: {printable(pool.engine)} {printable(pool.engine_version)},"
        f" {printable(pool.model_id)} {pool.model_digest}\n"
    )
    for check in judgement.checks:
        word = "ok    " if check.passed else "FAILED"
        output.write(f"{word} {check.name:<10} {printable(check.found)}\n")
    output.show(of_rows([_row(each) for each in judgement.latencies]))
    for words in judgement.not_held:
        output.note(f"no evidence here: {words}", style="dim")
    output.write(f"{'proven' if judgement.proven else 'not proven'}: {sha256}\n")


def as_json(header: Header, judgement: Judgement, sha256: str) -> dict[str, Any]:
    """The same as one JSON object."""
    return {
        "proven": judgement.proven,
        "sha256": sha256,
        "created_ms": header.created_ms,
        "llama_orch_version": header.llama_orch_version,
        "pool": header.pool.model_dump(mode="json"),
        "sampler": header.sampler.model_dump(mode="json"),
        "seeds": len(header.seeds),
        "rounds": [each.value for each in header.rounds],
        "runs": judgement.verdict.runs,
        "outputs_sha256": judgement.verdict.outputs_sha256,
        "checks": [asdict(check) for check in judgement.checks],
        "difference": None if judgement.difference is None else asdict(judgement.difference),
        "latency": [asdict(each) for each in judgement.latencies],
        "not_held": list(judgement.not_held),
    }


def _row(latency: ReplicaLatency) -> dict[str, str]:
    return {
        "REPLICA": latency.replica_id,
        "DEVICES": printable(", ".join(latency.devices)),
        "RUNS": str(latency.runs),
        "FIRST TOKEN": _ms(latency.first_token_ms),
        "95 %": _ms(latency.first_token_tail_ms),
        "EACH TOKEN": _ms(latency.token_ms),
        "OF 95 %": _ms(latency.token_tail_ms),
    }


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ms"
