"""Whether a task may enter the queue of a pool, and of which pool.

The checks run in the order a client is promised, and nothing is reserved by
any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.config import Pool
from contracts.pools import PoolView, ReloadState, ReplicaState
from contracts.tasks import TaskRequest, Workload
from orchestratord.errors import (
    ContextExceeded,
    ModelUnknown,
    NotServed,
    PoolDraining,
    PoolUnavailable,
    PoolUnready,
)

_SERVED = frozenset({Workload.COMPLETION, Workload.CHAT})
_COMING_UP = frozenset(
    {
        ReplicaState.PROVISIONING,
        ReplicaState.STARTING,
        ReplicaState.READY,
        ReplicaState.BACKOFF,
        ReplicaState.UNHEALTHY,
        ReplicaState.STOPPING,
    }
)


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What the configuration says of a pool."""

    pool_id: str
    engine: str
    model_id: str
    model_ref: str
    ctx: int

    @classmethod
    def of(cls, pool: Pool) -> PoolSpec:
        """The part of a configured pool that admission needs."""
        return cls(pool.id, pool.engine, pool.model.id, pool.model.ref, pool.ctx)


def refuse_unserved(request: TaskRequest) -> None:
    """Refuse fields that are valid but that nothing here would obey."""
    if request.workload not in _SERVED:
        raise NotServed("workload", f"{request.workload.value} needs an engine that embeds")
    if request.determinism == "strict":
        raise NotServed("determinism", "strict output is not proven yet")
    if request.sampler_profile_version is not None:
        raise NotServed("sampler_profile_version", "there are no sampler profiles yet")


def admitting_pools(
    request: TaskRequest, specs: Sequence[PoolSpec], views: Mapping[str, PoolView]
) -> list[PoolSpec]:
    """The pools that would take a request, in the order of the configuration.

    Each matches, is admitting, and could hold the output in its context; that
    the prompt fits too is for `refuse_too_long`.  Raises the refusal of the last
    pool tried when there is none.
    """
    matching = [spec for spec in specs if _matches(spec, views.get(spec.pool_id), request)]
    if not matching:
        raise ModelUnknown(_asked(request), sorted({spec.model_id for spec in specs}))
    refusal: Exception | None = None
    admitting = []
    for spec in matching:
        try:
            refuse_closed(spec, views.get(spec.pool_id))
            refuse_too_long(request, 1, spec)
        except (PoolDraining, PoolUnavailable, PoolUnready, ContextExceeded) as error:
            refusal = error
        else:
            admitting.append(spec)
    if not admitting:
        assert refusal is not None
        raise refusal
    return admitting


def refuse_too_long(request: TaskRequest, prompt_tokens: int, spec: PoolSpec) -> None:
    """Refuse what needs more context than a slot of the pool has.

    Raises:
        ContextExceeded: prompt and output together, or the context asked for.
    """
    needed = max(request.ctx or 0, prompt_tokens + (request.max_tokens or 0))
    if needed > spec.ctx:
        raise ContextExceeded(spec.pool_id, needed, spec.ctx)


def _matches(spec: PoolSpec, view: PoolView | None, request: TaskRequest) -> bool:
    """By the model that is served: a reload may have put it in the place of the configured one."""
    served_ref = spec.model_ref if view is None else view.model_ref
    return (
        request.model in (None, spec.model_id)
        and request.model_ref in (None, served_ref)
        and request.engine in (None, spec.engine)
        and request.pool_id in (None, spec.pool_id)
    )


def _asked(request: TaskRequest) -> str:
    named = {
        "model": request.model,
        "model_ref": request.model_ref,
        "engine": request.engine,
        "pool_id": request.pool_id,
    }
    return " with ".join(f"{key} {value}" for key, value in named.items() if value is not None)


def refuse_closed(spec: PoolSpec, view: PoolView | None) -> None:
    """Queue while anything is on its way up; a pool manager that is away may come back.

    Raises:
        PoolDraining, PoolUnavailable, PoolUnready.
    """
    if view is None:
        return
    if view.draining:
        raise PoolDraining(spec.pool_id)
    if any(replica.state in _COMING_UP for replica in view.replicas):
        return
    if view.reload is not None and view.reload.state is ReloadState.RUNNING:
        return
    if any(replica.state is ReplicaState.FAILED for replica in view.replicas):
        why = view.last_error.message if view.last_error else None
        raise PoolUnavailable(spec.pool_id, why)
    raise PoolUnready(spec.pool_id)
