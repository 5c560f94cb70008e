"""What the runs of a proof cost, for each replica and so for each device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from contracts.proofs import ProvenReplica, Run

TAIL = 0.95


@dataclass(frozen=True, slots=True)
class ReplicaLatency:
    """Figures of one replica's runs; None where no run told."""

    replica_id: str
    devices: tuple[str, ...]
    runs: int
    first_token_ms: float | None
    """Median."""
    first_token_tail_ms: float | None
    """95th percentile."""
    token_ms: float | None
    """Median time from one token to the next."""
    token_tail_ms: float | None


@dataclass
class _Seen:
    runs: int = 0
    first_token_ms: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)


class Latencies:
    """Collects the figures of runs, by replica."""

    def __init__(self, replicas: Iterable[ProvenReplica]) -> None:
        self._replicas = tuple(replicas)
        self._seen = {replica.replica_id: _Seen() for replica in self._replicas}

    def add(self, run: Run) -> None:
        """Another run; one of a replica that is not known does not count."""
        seen = self._seen.get(run.replica_id)
        if seen is None:
            return
        seen.runs += 1
        if run.first_token_ms is not None:
            seen.first_token_ms.append(run.first_token_ms)
        if run.decode_ms is not None and run.output.tokens_out > 1:
            seen.token_ms.append(run.decode_ms / (run.output.tokens_out - 1))

    def told(self) -> tuple[ReplicaLatency, ...]:
        """The figures, in the order of the replicas."""
        return tuple(self._of(replica) for replica in self._replicas)

    def _of(self, replica: ProvenReplica) -> ReplicaLatency:
        seen = self._seen[replica.replica_id]
        return ReplicaLatency(
            replica.replica_id,
            replica.devices,
            seen.runs,
            quantile(seen.first_token_ms, 0.5),
            quantile(seen.first_token_ms, TAIL),
            quantile(seen.token_ms, 0.5),
            quantile(seen.token_ms, TAIL),
        )


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all do not exceed; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
