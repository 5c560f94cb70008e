"""What a pool can be asked for, as its live replicas told it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from contracts.engines import Feature, ReplicaCapabilities
from contracts.pools import WORKLOADS, PoolView, ReplicaState, ReplicaView
from contracts.tasks import TaskRequest, Workload
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.sampling import Sampling
from orchestratord.errors import Unable

GENERATED = WORKLOADS["generation"]
"""Workloads that decode; the others are answered at once."""
_OF_GENERATION = ("temperature", "top_p", "top_k", "stop", "sampler_profile_version")


Told = Sequence[ReplicaCapabilities]
"""What each replica that serves has told of itself; empty before any has."""


def told(view: PoolView | None) -> Told:
    """Of a pool as last seen."""
    ready = [r for r in view.replicas if r.state is ReplicaState.READY] if view else []
    return told_by(ready)


def told_by(replicas: Iterable[ReplicaView]) -> Told:
    """Of these replicas."""
    return [r.capabilities for r in replicas if r.capabilities is not None]


def workloads(spec: PoolSpec, told: Told) -> frozenset[Workload]:
    """What every live replica serves; before any has told, what the pool is configured for."""
    of_each = [frozenset(capabilities.workloads) for capabilities in told]
    return frozenset.intersection(*of_each) if of_each else WORKLOADS[spec.workload]


def features(told: Told) -> frozenset[Feature] | None:
    """What every live replica can do besides; None before any has told."""
    of_each = [frozenset(capabilities.features) for capabilities in told]
    return frozenset.intersection(*of_each) if of_each else None


def output_bound(request: TaskRequest) -> int:
    """The most tokens a task may generate; what is answered at once generates none."""
    return (request.max_tokens or 0) if request.workload in GENERATED else 0


def refuse_senseless(request: TaskRequest) -> None:
    """Refuse what only a generation has, of a request that generates nothing.

    Raises:
        Unable: with the field.
    """
    if request.workload in GENERATED:
        return
    what = f"workload {request.workload} generates no text"
    for name in _OF_GENERATION:
        if getattr(request, name) is not None:
            raise Unable(name, what, "leave it out")
    if request.determinism == "strict":
        raise Unable("determinism", f"{what}, and strict is a promise about text", "leave it out")


def refuse_unable(request: TaskRequest, sampling: Sampling, spec: PoolSpec, told: Told) -> None:
    """Refuse what the live replicas of a pool cannot do.

    Raises:
        Unable: with the field, what is lacking, and what to do instead.
    """
    served = workloads(spec, told)
    if request.workload not in served:
        serves = ", ".join(sorted(served)) or "nothing that all its replicas have in common"
        raise Unable(
            "workload",
            f"pool {spec.pool_id} serves {serves}",
            f"name a model or a pool that serves {request.workload}",
            spec.pool_id,
        )
    able = features(told)
    if able is None:
        return
    for field, feature, remedy in _needs(request, sampling):
        if feature not in able:
            reason = f"engine {spec.engine} of pool {spec.pool_id} has no {feature}"
            raise Unable(field, reason, remedy, spec.pool_id)


def _needs(request: TaskRequest, sampling: Sampling) -> Iterator[tuple[str, Feature, str]]:
    """Each field that needs something of an engine: what, and what to do where it lacks that."""
    asked = "leave it out, or name a pool whose `features` list it"
    for field, feature in (
        ("json_schema", Feature.JSON_SCHEMA),
        ("grammar", Feature.GRAMMAR),
        ("seed", Feature.SEED),
    ):
        if getattr(request, field) is not None:
            yield field, feature, asked
    if request.stop:
        yield "stop", Feature.STOP, asked
    for name, _ in sampling.wanted():
        if getattr(request, name, None) is not None:
            yield name, Feature(name), asked
        else:
            yield "sampler_profile_version", Feature(name), "name a profile that sets none"
