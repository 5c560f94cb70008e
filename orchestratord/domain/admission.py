"""Whether a task may enter the queue of a pool, and of which pool.

The checks run in the order a client is promised, and nothing is reserved by
any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contracts.pools import DeviceView, PoolView, ReloadState, ReplicaState
from contracts.tasks import TaskRequest
from orchestratord.domain.abilities import output_bound, refuse_unable, told
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.sampling import Sampling
from orchestratord.domain.strictness import refusal_of_pool
from orchestratord.errors import (
    ContextExceeded,
    ModelUnknown,
    PoolDraining,
    PoolUnavailable,
    PoolUnready,
    StrictUnready,
    Unable,
)

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


def admitting_pools(
    request: TaskRequest,
    sampling: Sampling,
    specs: Sequence[PoolSpec],
    views: Mapping[str, PoolView],
    devices: Sequence[DeviceView] = (),
) -> list[PoolSpec]:
    """The pools that would take a request, in the order of the configuration.

    Each matches, can do what is asked, is admitting, and could hold the output in
    its context; that the prompt fits too is for `refuse_too_long`.  Raises the
    refusal of the last pool tried when there is none, of those that can do it
    where some can.
    """
    matching = [spec for spec in specs if _matches(spec, views.get(spec.pool_id), request)]
    if not matching:
        models = sorted({spec.model_id for spec in specs})
        pools = None if request.pool_id is None else sorted(spec.pool_id for spec in specs)
        raise ModelUnknown(_asked(request), models, pools)
    refusal: Exception | None = None
    admitting = []
    for spec in _able(request, sampling, matching, views):
        try:
            refuse_closed(spec, views.get(spec.pool_id))
            refuse_too_long(request, 1, spec)
            refuse_unproven(request, spec, views.get(spec.pool_id), devices)
        except (
            PoolDraining,
            PoolUnavailable,
            PoolUnready,
            ContextExceeded,
            StrictUnready,
            Unable,
        ) as error:
            refusal = error
        else:
            admitting.append(spec)
    if not admitting:
        assert refusal is not None
        raise refusal
    return admitting


def _able(
    request: TaskRequest,
    sampling: Sampling,
    specs: Sequence[PoolSpec],
    views: Mapping[str, PoolView],
) -> list[PoolSpec]:
    """The pools that can do what is asked; raises `Unable` of the last one where none can."""
    refusal: Unable | None = None
    able = []
    for spec in specs:
        try:
            refuse_unable(request, sampling, spec, told(views.get(spec.pool_id)))
        except Unable as error:
            refusal = error
        else:
            able.append(spec)
    if not able:
        assert refusal is not None
        raise refusal
    return able


def refuse_unproven(
    request: TaskRequest, spec: PoolSpec, view: PoolView | None, devices: Sequence[DeviceView]
) -> None:
    """Refuse a strict task that a pool cannot promise equal bytes for.

    Raises:
        StrictUnready: no replica serves yet, so nothing proves it.
        Unable: what serves speaks against it.
    """
    if request.determinism != "strict":
        return
    refusal = None if view is None else refusal_of_pool(view, devices)
    if view is None or (refusal is not None and refusal.unready):
        raise StrictUnready(spec.pool_id)
    if refusal is not None:
        raise Unable("determinism", refusal.reason, refusal.remedy, spec.pool_id)


def refuse_too_long(request: TaskRequest, prompt_tokens: int, spec: PoolSpec) -> None:
    """Refuse what needs more context than a slot of the pool has.

    `prompt_tokens` are those of one sequence: each input of an embedding is its own.

    Raises:
        ContextExceeded: prompt and output together, or the context asked for.
    """
    needed = max(request.ctx or 0, prompt_tokens + output_bound(request))
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
