"""Families are built from the list, and closed values are there from the start."""

from __future__ import annotations

import anyio
import pytest

from contracts.metrics import METRICS
from contracts.pools import ReplicaState
from contracts.service.prometheus import MetricsRegistry


@pytest.mark.parametrize("daemon", ["orchestratord", "pool_managerd"])
def test_a_daemon_shows_its_own_families_and_no_other(daemon: str) -> None:
    """LO-MET-001."""
    text = MetricsRegistry(daemon).render().decode()  # type: ignore[arg-type]
    for metric in METRICS:
        shown = f"# HELP {metric.name} " in text
        assert shown == (metric.daemon in (daemon, "both")), metric.name


def test_closed_values_are_prepared_where_the_rest_is_known() -> None:
    registry = MetricsRegistry("pool_managerd")
    registry.prepare("replica_state", pool_id="chat", replica_id="chat/0")
    text = registry.render().decode()
    for state in ReplicaState:
        expected = f'replica_state{{pool_id="chat",replica_id="chat/0",state="{state}"}} 0.0'
        assert expected in text


def test_preparing_needs_every_open_label() -> None:
    with pytest.raises(ValueError, match="give pool_id, replica_id"):
        MetricsRegistry("pool_managerd").prepare("replica_state")


def test_a_family_is_had_by_its_kind_only() -> None:
    registry = MetricsRegistry("orchestratord")
    registry.counter("tasks_rejected_total").labels("none", "QUEUE_FULL").inc()
    assert b'tasks_rejected_total{engine="none",reason="QUEUE_FULL"} 1.0' in registry.render()
    for name in ("queue_depth", "active_leases"):
        with pytest.raises(KeyError):
            registry.counter(name)


@pytest.mark.anyio
async def test_loop_lag_is_observed() -> None:
    registry = MetricsRegistry("orchestratord")
    with anyio.move_on_after(0.5):
        await registry.watch_loop_lag(0.001)
    assert b"event_loop_lag_seconds_count 0.0" not in registry.render()
