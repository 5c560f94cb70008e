"""Proofs: a good one holds, and whatever is done to it is found."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.pools import FailureReason, ReplicaState
from contracts.proofs import (
    LINE_BYTES_MAX,
    LINES_MAX,
    PROOF_BYTES_MAX,
    Header,
    Round,
    Run,
    outputs_digest,
    sequence_digest,
)
from llama_orch.determinism import proof_file
from llama_orch.determinism.judge import Judge, Judgement
from llama_orch.determinism.latency import quantile
from llama_orch.determinism.proof_file import BadProof, Evidence, ProofReader
from llama_orch.determinism.sampler import shipped_samplers
from llama_orch.determinism.verify import verify_file
from llama_orch.tests.made_proofs import (
    MODEL,
    OTHER_MODEL,
    bar,
    control,
    header,
    judged,
    output,
    run,
    runs,
    written,
)


def read(content: bytes) -> Judgement:
    """What a verifier makes of these bytes."""
    proof = ProofReader(io.BytesIO(content))
    judge = Judge(proof.header, shipped_samplers())
    for record in proof.evidence():
        judge.add(record)
    return judge.judgement(proof.verdict)


def found(content: bytes) -> str:
    """Why a verifier does not take these bytes for a proof."""
    try:
        judgement = read(content)
    except BadProof as bad:
        return str(bad)
    assert not judgement.proven
    return judgement.failure or ""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("proof") / "good.jsonl"
    return written(path, header(), [*runs(), control(), bar()]).read_bytes()


def test_boundaries_of_pieces_count() -> None:
    """LO-DET-010: `a`, `bc` is another sequence than `ab`, `c`; the digest is as it is told."""
    assert len({sequence_digest(p) for p in (("a", "bc"), ("ab", "c"), ("abc",), ("abc", ""))}) == 4
    assert sequence_digest(()) == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert sequence_digest(["é"]) == (
        "sha256:1d9b2f68e31ef2b6730c67d7729ca6a523e7f19d8987ca7c72eb93cb3bb9d979"
    )


def test_a_good_proof_is_proven_and_tells_what_it_holds(good: bytes) -> None:
    """LO-DET-011, LO-DET-014, LO-DET-018."""
    judgement = read(good)
    assert judgement.proven
    assert judgement.failure is None
    assert [check.name for check in judgement.checks] == [
        *("request", "complete", "digests", "identity", "equal", "seeds", "controls", "bars"),
        "verdict",
    ]
    assert judgement.verdict.runs == 256
    first, second = judgement.latencies
    assert (first.replica_id, second.replica_id) == ("chat/0", "chat/1")
    assert (first.runs, first.first_token_ms, first.token_ms) == (128, 2, 15.5)
    assert "a replica of another engine version is kept from serving" in judgement.not_held
    assert "a replica of another model is kept from serving" not in judgement.not_held
    assert "round engine_restarted" in judgement.not_held


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_is_found(good: bytes, data: st.DataObject) -> None:
    """LO-DET-012: wherever it lies, and without a traceback."""
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))
    assert found(good[:at] + bytes([byte]) + good[at + 1 :])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_was_cut_doubled_or_put_in_is_found(good: bytes, data: st.DataObject) -> None:
    """LO-DET-012."""
    start = data.draw(st.integers(0, len(good) - 1))
    end = data.draw(st.integers(start + 1, min(len(good), start + 3000)))
    put_in = data.draw(st.sampled_from([b"", good[start:end] * 2, b" ", b"\n", b"\xff", b"\0"]))
    changed = good[:start] + put_in + good[end:]
    if changed != good:
        assert found(changed)


@settings(max_examples=300, deadline=None)
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_garbage_is_no_proof(content: bytes) -> None:
    """LO-DET-012."""
    with pytest.raises(BadProof):
        read(content)


def changed_run(at: int, **changes: object) -> Callable[[list[Evidence]], list[Evidence]]:
    def change(evidence: list[Evidence]) -> list[Evidence]:
        return [*evidence[:at], evidence[at].model_copy(update=changes), *evidence[at + 1 :]]

    return change


def left_out(at: int) -> Callable[[list[Evidence]], list[Evidence]]:
    return lambda evidence: evidence[:at] + evidence[at + 1 :]


def also(*records: Evidence) -> Callable[[list[Evidence]], list[Evidence]]:
    return lambda evidence: [*evidence, *records]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (left_out(70), "complete: seed 6 was not run on chat/1 (quiet)"),
        (
            changed_run(70, output=output(" né", " 6", "\u2029")),
            "equal: seed 6 on chat/1 (quiet) differs from chat/0 (quiet) in piece 2",
        ),
        (
            changed_run(70, output=output(" né", " 6")),
            "equal: seed 6 on chat/1 (quiet) differs from chat/0 (quiet) in piece 2",
        ),
        (
            changed_run(255, output=output(" né", " 63", "\u2028", tokens_in=4)),
            "equal: seed 63 on chat/1 (loaded) differs from chat/0 (quiet) in the figures",
        ),
        (
            changed_run(3, output=output(" né", " 3", "\u2028", sha256=MODEL)),
            "digests: seed 3 on chat/0 (quiet): its pieces are not those of its sha256",
        ),
        (changed_run(3, engine_version="v2"), "engine version v2, not v1"),
        (changed_run(3, model_digest=OTHER_MODEL), f"model {OTHER_MODEL}, not {MODEL}"),
        (changed_run(3, replica_id="chat/2"), "the header knows no such run"),
        (also(run(64)), "seed 64 on chat/0 (quiet): the header knows no such run"),
        (also(run(3, name=Round.ENGINE_RESTARTED)), "the header knows no such round"),
        (also(control(model_digest=MODEL)), "it ran the proven model, and is no control"),
        (also(control(64)), "there is no run of its seed"),
        (
            also(control(3, output=output(" né", " 3", "\u2028"))),
            "controls: seed 3 on other/0: another model gave the same output",
        ),
        (also(bar(state=ReplicaState.READY)), "differs by its model, and is ready"),
        (also(bar(reason=FailureReason.CRASH)), "is kept from serving by CRASH"),
    ],
)
def test_what_a_maker_should_have_seen_is_seen(
    tmp_path: Path, change: Callable[[list[Evidence]], list[Evidence]], words: str
) -> None:
    """LO-DET-013, LO-DET-014: sealed anew and with any claim, it is found all the same."""
    evidence = change(runs())
    honest = written(tmp_path / "honest.jsonl", header(), evidence).read_bytes()
    assert words in found(honest)
    forged = written(tmp_path / "forged.jsonl", header(), evidence, proven=True).read_bytes()
    assert words in found(forged)


def test_a_run_that_is_more_than_was_wanted_is_evidence_too() -> None:
    assert judged(header(), [*runs(), run(3), run(3)]).proven
    assert not judged(header(), [*runs(), run(3), run(3, output=output("x"))]).proven


def test_one_seed_for_two_texts_that_are_equal_is_no_seed() -> None:
    """LO-DET-014: an engine that answers everything with one text proves nothing."""
    canned = [record.model_copy(update={"output": output(" canned")}) for record in runs()]
    assert "seeds: seeds 0 and 1 gave the same output" in (judged(header(), canned).failure or "")
    greedy = header(
        sampler=shipped_samplers()["greedy-1"],
        request=header().request.model_copy(update={"sampler_profile_version": "greedy-1"}),
    )
    judgement = judged(greedy, canned)
    assert judgement.proven
    assert "another seed gives another output" in judgement.not_held


def without(name: str) -> Header:
    return header(request=header().request.model_copy(update={name: None}))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (without("determinism"), "request: it was not asked for `determinism: strict`"),
        (without("sampler_profile_version"), "request: it asks for another sampler profile"),
        (without("pool_id"), "request: it may run elsewhere than in pool chat"),
        (
            header(request=header().request.model_copy(update={"seed": 3})),
            "request: it names a seed",
        ),
        (header(seeds=tuple(range(63))), "complete: 63 seeds; a proof takes 64"),
        (header(seeds=(*range(64), 1)), "complete: the header names a seed or a round twice"),
        (
            header(sampler=header().sampler.model_copy(update={"sha256": MODEL})),
            "request: sampler profile balanced-1 is not the one that is shipped",
        ),
    ],
)
def test_a_header_that_asks_for_less_is_no_proof(head: Header, words: str) -> None:
    """LO-DET-011, LO-DET-013."""
    kept = [record for record in runs() if isinstance(record, Run) and record.seed in head.seeds]
    assert words in (judged(head, kept).failure or "")


def test_a_task_that_is_told_twice_is_found() -> None:
    """LO-DET-013: evidence is not made more by copying it."""
    first, *rest = runs()
    assert isinstance(first, Run)
    copied = first.model_copy(update={"replica_id": "chat/1"})
    assert "is told twice" in (judged(header(), [first, copied, *rest]).failure or "")


def test_a_false_claim_is_found(tmp_path: Path) -> None:
    """LO-DET-013."""
    for claim in ({"proven": False}, {"runs": 3}, {"outputs_sha256": MODEL}):
        path = written(tmp_path / "claim.jsonl", header(), runs(), **claim)
        assert "verdict: claimed" in found(path.read_bytes())


def test_another_format_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "new.jsonl", header(format_version=2), runs())
    assert found(path.read_bytes()) == "it is of format 2; this llama-orch reads 1"


@pytest.mark.parametrize(
    ("bound", "small", "words"),
    [
        ("LINE_BYTES_MAX", 300, "line 1 is longer than"),
        ("PROOF_BYTES_MAX", 90_000, "it is larger than"),
        ("LINES_MAX", 250, "it is larger than"),
    ],
)
def test_reading_is_bounded(
    good: bytes, monkeypatch: pytest.MonkeyPatch, bound: str, small: int, words: str
) -> None:
    """LO-DET-012: the same proof, one that is larger than a reader takes."""
    assert LINE_BYTES_MAX < PROOF_BYTES_MAX
    assert good.count(b"\n") < LINES_MAX
    monkeypatch.setattr(proof_file, bound, small)
    assert words in found(good)


def test_the_order_of_seeds_does_not_change_the_digest_of_all() -> None:
    assert outputs_digest([(2, "b"), (10, "c")]) == outputs_digest([(10, "c"), (2, "b")])
    assert outputs_digest([(2, "b")]) != outputs_digest([(2, "c")])


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [([], 0.5, None), ([3.0], 0.95, 3.0), ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0), ([1, 2], 0.95, 2)],
)
def test_a_quantile_is_a_value_that_was_seen(
    values: list[float], share: float, wanted: float | None
) -> None:
    assert quantile(values, share) == wanted


def test_a_proof_that_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    """LO-DET-012."""
    with pytest.raises(BadProof, match="regular file"):
        verify_file(tmp_path)
    with pytest.raises(BadProof, match="regular file"):
        verify_file(Path("/dev/zero"))


def test_nothing_is_left_behind_where_a_proof_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError):
        written(tmp_path / "there", header(), runs())
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_proof_is_lines_of_json(good: bytes) -> None:
    """LO-DET-010."""
    kinds = [json.loads(line)["kind"] for line in good.splitlines()]
    assert kinds == ["header", *["run"] * 256, "control", "bar", "verdict", "seal"]
