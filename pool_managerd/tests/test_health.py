"""A pool's health, from its replicas."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contracts.pools import PoolView, ReplicaState
from pool_managerd.domain.health import HAS_PROCESS, pool_view
from pool_managerd.domain.restart import Breaker
from pool_managerd.tests.test_metrics import POOL, replica

S = ReplicaState


def health_of(*states: ReplicaState) -> PoolView:
    replicas = [replica(number, state=state) for number, state in enumerate(states)]
    return pool_view(POOL, replicas, [Breaker.CLOSED] * len(replicas))


@pytest.mark.parametrize("state", list(ReplicaState))
def test_a_pool_is_ready_while_at_least_one_replica_serves(state: ReplicaState) -> None:
    """LO-POOL-062."""
    assert health_of(state, state).ready == (state is S.READY)
    assert health_of(state, S.READY).ready
    assert health_of(S.STOPPED, state).live == (state in HAS_PROCESS)


def test_an_unhealthy_replica_is_told_as_no_progress() -> None:
    assert health_of(S.READY).progressing
    assert not health_of(S.READY, S.UNHEALTHY).progressing


@pytest.mark.parametrize(
    ("breakers", "told"),
    [
        ([Breaker.OPEN, Breaker.CLOSED], "closed"),
        ([Breaker.OPEN, Breaker.HALF_OPEN], "half_open"),
        ([Breaker.OPEN, Breaker.OPEN], "open"),
    ],
)
def test_a_pool_is_as_open_as_its_best_replica(breakers: Sequence[Breaker], told: str) -> None:
    assert pool_view(POOL, [replica(0), replica(1)], breakers).breaker == told


def test_a_pool_that_drains_is_not_ready_and_one_degraded_replica_degrades_it() -> None:
    """LO-POOL-062, LO-POOL-086."""
    worse = replica(1).model_copy(update={"degraded": "it computes on the CPU"})
    replicas, closed = [replica(0), worse], [Breaker.CLOSED] * 2
    assert pool_view(POOL, replicas, closed).degraded
    assert not pool_view(POOL, replicas[:1], closed[:1]).degraded
    drained = pool_view(POOL, replicas, closed, draining=True)
    assert (drained.draining, drained.ready) == (True, False)
