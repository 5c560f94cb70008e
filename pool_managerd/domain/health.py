"""A pool's health, from its replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from contracts.config import Pool
from contracts.pools import PoolView, ReloadView, ReplicaState, ReplicaView
from pool_managerd.domain.restart import Breaker

HAS_PROCESS = frozenset(
    {
        ReplicaState.STARTING,
        ReplicaState.READY,
        ReplicaState.DRAINING,
        ReplicaState.UNHEALTHY,
        ReplicaState.STOPPING,
    }
)


def pool_view(
    pool: Pool,
    replicas: Sequence[ReplicaView],
    breakers: Sequence[Breaker],
    *,
    draining: bool = False,
    reload: ReloadView | None = None,
) -> PoolView:
    """The pool as a snapshot shows it; `breakers` are those of its replicas."""
    errors = [replica.last_error for replica in replicas if replica.last_error is not None]
    states = [replica.state for replica in replicas]
    return PoolView(
        pool_id=pool.id,
        live=any(state in HAS_PROCESS for state in states),
        ready=ReplicaState.READY in states and not draining,
        draining=draining,
        progressing=ReplicaState.UNHEALTHY not in states,
        restarts=sum(replica.restarts for replica in replicas),
        breaker=_breaker(breakers),
        last_error=max(errors, key=lambda error: error.at_ms, default=None),
        replicas=tuple(replicas),
        degraded=any(replica.degraded is not None for replica in replicas),
        reload=reload,
        engine=pool.engine,
        model_id=pool.model.id,
        model_ref=pool.model.ref,
        ctx=pool.ctx,
        slots=pool.slots,
    )


def _breaker(breakers: Sequence[Breaker]) -> Literal["closed", "open", "half_open"]:
    """A pool is as open as its best replica: one that is closed keeps it closed."""
    if Breaker.CLOSED in breakers:
        return "closed"
    return "half_open" if Breaker.HALF_OPEN in breakers else "open"
