"""Judge a proof by its evidence alone.  Pure: no file, no clock, no network.

Every check is made whatever the others found, so that a report says all there is
to say; `proven` needs all of them.  What is kept of a run is a line, and of each
seed the pieces of its first run, to name the first piece in which another differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.pools import FailureReason, ReplicaState
from contracts.proofs import (
    SEEDS_MIN,
    Bar,
    Control,
    Header,
    Output,
    ProvenSampler,
    Round,
    Run,
    Verdict,
    outputs_digest,
    sequence_digest,
)
from llama_orch.determinism.latency import Latencies, ReplicaLatency

SERVING = frozenset({ReplicaState.READY, ReplicaState.DRAINING})
BAR_REASONS = {
    "model": FailureReason.DIGEST_MISMATCH,
    "engine_version": FailureReason.VERSION_MISMATCH,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One question put to a proof, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Two runs of one seed that are not equal; `index` is None where the pieces are."""

    seed: int
    replica_id: str
    round: Round
    other_replica_id: str
    other_round: Round
    index: int | None

    def words(self) -> str:
        """The difference as one line."""
        what = "the figures at its end" if self.index is None else f"piece {self.index}"
        return (
            f"seed {self.seed} on {self.replica_id} ({self.round.value}) differs from"
            f" {self.other_replica_id} ({self.other_round.value}) in {what}"
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything found in one proof."""

    checks: tuple[Check, ...]
    difference: Difference | None
    latencies: tuple[ReplicaLatency, ...]
    not_held: tuple[str, ...]
    """What the proof holds no evidence for, in words."""
    verdict: Verdict
    """What its maker should have claimed."""

    @property
    def proven(self) -> bool:
        """Whether equal requests gave equal bytes, and everything else is as it must be."""
        return self.verdict.proven

    @property
    def failure(self) -> str | None:
        """What is wrong, one thing of each check; None where nothing is."""
        failed = [f"{check.name}: {check.found}" for check in self.checks if not check.passed]
        return "; ".join(failed) or None


@dataclass(frozen=True, slots=True)
class _First:
    """The first run of a seed, against which the others are held."""

    replica_id: str
    round: Round
    end: tuple[str, int, int]
    digest: str
    pieces: bytes


@dataclass
class _Faults:
    """How often something was wrong, and the first of it in words."""

    count: int = 0
    first: str = ""

    def add(self, words: str) -> None:
        self.first = self.first or words
        self.count += 1

    def check(self, name: str, fine: str) -> Check:
        more = f", and {self.count - 1} more" if self.count > 1 else ""
        return Check(name, not self.count, f"{self.first}{more}" if self.count else fine)


class Judge:
    """Takes the evidence of one proof, record by record.

    `shipped` are the sampler profiles whose files are known: a proof may tell no other.
    """

    def __init__(self, header: Header, shipped: Mapping[str, ProvenSampler]) -> None:
        self._header = header
        self._shipped = shipped
        self._latencies = Latencies(header.pool.replicas)
        self._replicas = [replica.replica_id for replica in header.pool.replicas]
        self._seeds = frozenset(header.seeds)
        self._first: dict[int, _First] = {}
        self._had: set[tuple[Round, str, int]] = set()
        self._tasks: set[str] = set()
        self._difference: Difference | None = None
        self._runs = self._bars = 0
        self._barred: set[str] = set()
        self._controls: list[Control] = []
        self._faults: dict[str, _Faults] = {
            name: _Faults() for name in ("digests", "identity", "equal", "controls", "bars")
        }

    def add(self, record: Run | Control | Bar) -> None:
        """Another piece of evidence."""
        if isinstance(record, Run):
            self._run(record)
        elif isinstance(record, Control):
            self._control(record)
        else:
            self._bar(record)

    def judgement(self, claimed: Verdict | None = None) -> Judgement:
        """What the evidence comes to; `claimed` is held against it, where there is a claim."""
        pool, faults = self._header.pool, self._faults
        for control in self._controls:
            self._judge_control(control)
        checks = [
            self._request(),
            self._complete(),
            faults["digests"].check("digests", f"{self._runs} outputs have the sha256 they tell"),
            faults["identity"].check(
                "identity", f"every run was by {pool.engine_version} with {pool.model_digest}"
            ),
            faults["equal"].check("equal", f"{self._runs} runs of {len(self._first)} seeds"),
            self._seeds_differ(),
            faults["controls"].check("controls", f"{len(self._controls)} differ as they must"),
            faults["bars"].check("bars", f"{self._bars} were kept from serving"),
        ]
        outputs = [(seed, first.digest) for seed, first in self._first.items()]
        verdict = Verdict(
            proven=all(check.passed for check in checks),
            runs=self._runs,
            outputs_sha256=outputs_digest(outputs),
        )
        if claimed is not None:
            checks.append(_as_claimed(claimed, verdict))
            verdict = verdict.model_copy(update={"proven": verdict.proven and checks[-1].passed})
        return Judgement(
            tuple(checks), self._difference, self._latencies.told(), self._not_held(), verdict
        )

    def _run(self, run: Run) -> None:
        self._runs += 1
        where = f"seed {run.seed} on {run.replica_id} ({run.round.value})"
        self._look_at_identity(run, where)
        self._look_at_digest(run.output, where)
        self._had.add((run.round, run.replica_id, run.seed))
        self._latencies.add(run)
        end = (run.output.finish_reason, run.output.tokens_in, run.output.tokens_out)
        digest = sequence_digest(run.output.pieces)
        first = self._first.get(run.seed)
        if first is None:
            kept = json.dumps(run.output.pieces).encode()
            self._first[run.seed] = _First(run.replica_id, run.round, end, digest, kept)
        elif (first.digest, first.end) != (digest, end):
            found = _difference(first, run)
            self._difference = self._difference or found
            self._faults["equal"].add(found.words())

    def _look_at_identity(self, run: Run, where: str) -> None:
        pool, fault = self._header.pool, self._faults["identity"].add
        if run.task_id in self._tasks:
            fault(f"{where}: its task {run.task_id} is told twice")
        self._tasks.add(run.task_id)
        if run.replica_id not in self._replicas or run.seed not in self._seeds:
            fault(f"{where}: the header knows no such run")
        if run.round not in self._header.rounds:
            fault(f"{where}: the header knows no such round")
        if run.engine_version != pool.engine_version:
            fault(f"{where}: engine version {run.engine_version}, not {pool.engine_version}")
        if run.model_digest != pool.model_digest:
            fault(f"{where}: model {run.model_digest}, not {pool.model_digest}")

    def _look_at_digest(self, output: Output, where: str) -> None:
        if output.sha256 != sequence_digest(output.pieces):
            self._faults["digests"].add(f"{where}: its pieces are not those of its sha256")

    def _control(self, control: Control) -> None:
        self._look_at_digest(control.output, f"control of seed {control.seed}")
        # Held back: the run it is compared with may come later.  Pieces are not needed.
        bare = control.output.model_copy(
            update={"pieces": (), "sha256": sequence_digest(control.output.pieces)}
        )
        self._controls.append(control.model_copy(update={"output": bare}))

    def _judge_control(self, control: Control) -> None:
        fault = self._faults["controls"].add
        where = f"seed {control.seed} on {control.replica_id}"
        pool, first = self._header.pool, self._first.get(control.seed)
        if control.model_digest == pool.model_digest:
            fault(f"{where}: it ran the proven model, and is no control")
        elif first is None:
            fault(f"{where}: there is no run of its seed to hold it against")
        elif first.digest == control.output.sha256:
            fault(f"{where}: another model gave the same output")

    def _bar(self, bar: Bar) -> None:
        self._bars += 1
        self._barred.add(bar.differs_by)
        fault = self._faults["bars"].add
        if bar.state in SERVING:
            fault(f"{bar.replica_id} differs by its {bar.differs_by}, and is {bar.state.value}")
        elif bar.reason is not BAR_REASONS[bar.differs_by]:
            fault(f"{bar.replica_id} is kept from serving by {bar.reason.value}, not for that")

    def _request(self) -> Check:
        request, sampler = self._header.request, self._header.sampler
        faults = _Faults()
        if request.determinism != "strict":
            faults.add("it was not asked for `determinism: strict`")
        if request.sampler_profile_version != sampler.version:
            faults.add(f"it asks for another sampler profile than {sampler.version}")
        if request.seed is not None or request.task_id is not None:
            faults.add("it names a seed or a task of its own")
        if request.pool_id != self._header.pool.pool_id:
            faults.add(f"it may run elsewhere than in pool {self._header.pool.pool_id}")
        if sampler != self._shipped.get(sampler.version, sampler):
            faults.add(f"sampler profile {sampler.version} is not the one that is shipped")
        return faults.check("request", f"strict, sampler profile {sampler.version}")

    def _complete(self) -> Check:
        header, faults = self._header, _Faults()
        if len(self._seeds) < SEEDS_MIN:
            faults.add(f"{len(self._seeds)} seeds; a proof takes {SEEDS_MIN}")
        if len(self._seeds) != len(header.seeds) or len(set(header.rounds)) != len(header.rounds):
            faults.add("the header names a seed or a round twice")
        if len(set(self._replicas)) != len(self._replicas):
            faults.add("the header names a replica twice")
        if len(self._replicas) * len(header.rounds) == 1:
            faults.add("one round on one replica: there is nothing to compare")
        for round_ in header.rounds:
            for replica_id in self._replicas:
                for seed in header.seeds:
                    if (round_, replica_id, seed) not in self._had:
                        faults.add(f"seed {seed} was not run on {replica_id} ({round_.value})")
        return faults.check(
            "complete",
            f"{len(self._seeds)} seeds on {', '.join(self._replicas)},"
            f" {', '.join(round_.value for round_ in header.rounds)}",
        )

    def _seeds_differ(self) -> Check:
        if self._is_greedy():
            return Check("seeds", True, "greedy: the seed has no say")
        faults, seen = _Faults(), dict[str, int]()
        for seed, first in self._first.items():
            other = seen.setdefault(first.digest, seed)
            if other != seed:
                faults.add(
                    f"seeds {other} and {seed} gave the same output: ask for a longer or freer text"
                )
        return faults.check("seeds", f"{len(seen)} seeds, {len(seen)} outputs")

    def _is_greedy(self) -> bool:
        temperature = self._header.request.temperature
        values = self._header.sampler.values
        if temperature is None and values is not None:
            temperature = values.temperature
        return temperature == 0

    def _not_held(self) -> tuple[str, ...]:
        missing = [] if self._controls else ["another model gives another output"]
        rounds = [round_.value for round_ in Round if round_ not in self._header.rounds]
        if len(self._replicas) == 1:
            missing.append("equal outputs on two replicas")
        if self._is_greedy():
            missing.append("another seed gives another output")
        missing += [
            f"a replica of another {name.replace('_', ' ')} is kept from serving"
            for name in BAR_REASONS
            if name not in self._barred
        ]
        return (*missing, *(f"round {name}" for name in rounds))


def _difference(first: _First, run: Run) -> Difference:
    kept = json.loads(first.pieces)
    found = run.output.pieces
    index = next(
        (i for i, (one, other) in enumerate(zip(kept, found, strict=False)) if one != other),
        min(len(kept), len(found)) if len(kept) != len(found) else None,
    )
    return Difference(run.seed, run.replica_id, run.round, first.replica_id, first.round, index)


def _as_claimed(claimed: Verdict, found: Verdict) -> Check:
    if claimed == found:
        return Check("verdict", True, "as claimed")
    return Check(
        "verdict",
        False,
        f"claimed: {_words(claimed)}; found: {_words(found)}",
    )


def _words(verdict: Verdict) -> str:
    proven = "proven" if verdict.proven else "not proven"
    return f"{proven}, {verdict.runs} runs, outputs {verdict.outputs_sha256}"
