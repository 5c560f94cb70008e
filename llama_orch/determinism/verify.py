"""Verify a proof file: everything is found again from the file alone."""

from __future__ import annotations

from pathlib import Path

from contracts.proofs import Header
from llama_orch.determinism.judge import Judge, Judgement
from llama_orch.determinism.proof_file import BadProof, ProofReader, open_regular
from llama_orch.determinism.report import report
from llama_orch.determinism.sampler import shipped_samplers
from llama_orch.failures import Failed, UsageMistake
from llama_orch.output import Output


def verify_file(path: Path) -> tuple[Header, Judgement, str]:
    """Header, judgement and sha256 of the proof at `path`.

    Raises:
        BadProof: it is no proof, or not as it was sealed.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        proof = ProofReader(file)
        judge = Judge(proof.header, shipped_samplers())
        for record in proof.evidence():
            judge.add(record)
    return proof.header, judge.judgement(proof.verdict), proof.sha256


def verify_and_report(path: Path, output: Output) -> int:
    """Print what the proof at `path` comes to; 0 where it holds.

    Raises:
        UsageMistake: there is no such file.
        Failed: the proof does not hold, or is none.
    """
    try:
        header, judgement, sha256 = verify_file(path)
    except BadProof as bad:
        raise Failed(f"{path}: not proven: {bad}") from None
    except OSError as error:
        raise UsageMistake(f"{path}: cannot be read: {error.strerror}") from None
    report(output, header, judgement, sha256)
    if judgement.failure is None:
        return 0
    raise Failed(f"{path}: not proven: {judgement.failure}")
