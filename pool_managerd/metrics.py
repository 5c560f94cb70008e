"""The figures of pools, replicas and cards, brought up to date when they are scraped.

All of them are read off the snapshot, so that `/metrics` and `/v1/snapshot` never
disagree.  A figure that is not known has no series, and one that a card or engine
stopped telling loses it: a zero would be a lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from contracts.metrics import RESTART_REASONS
from contracts.pools import DeviceView, PoolView, ReplicaState, ReplicaView
from contracts.service.prometheus import MetricsRegistry
from pool_managerd.replica import Replica
from pool_managerd.snapshots import SnapshotBoard

DEVICE_GAUGES = (
    *("gpu_utilization", "vram_used_bytes", "vram_total_bytes"),
    "gpu_sample_age_seconds",
)
REPLICA_GAUGES = {
    "kv_cache_usage_ratio": "kv_cache_usage",
    "engine_requests_running": "requests_running",
    "engine_requests_waiting": "requests_waiting",
}
"""What an engine tells of itself: the family, and the field of the view."""
NO_XIDS: Mapping[tuple[str, str], int] = MappingProxyType({})


class PoolMetrics:
    """What `/metrics` of pool_managerd shows.

    Args:
        xid_errors: Xid errors so far by UUID and label, as the sampler counts them.
    """

    def __init__(
        self,
        registry: MetricsRegistry,
        board: SnapshotBoard,
        replicas: Mapping[str, Replica],
        xid_errors: Mapping[tuple[str, str], int] = NO_XIDS,
    ) -> None:
        self._registry = registry
        self._board = board
        self._replicas = replicas
        self._restarts = registry.counter("replica_restarts_total")
        self._counted: dict[tuple[str, str], int] = {}
        self._xids = registry.counter("gpu_xid_errors_total")
        self._xid_errors = xid_errors
        self._xids_counted: dict[tuple[str, str], int] = {}
        self._evictions = registry.counter("kv_cache_evictions_total")
        self._evictions_counted: dict[tuple[str, str], int] = {}

    def render(self) -> bytes:
        """Prometheus text, as of now."""
        snapshot = self._board.current()
        for name in (*REPLICA_GAUGES, "replica_state", "active_leases"):
            self._registry.gauge(name).clear()
        for pool in snapshot.pools:
            for replica in pool.replicas:
                self._show_replica(pool, replica)
        for name in DEVICE_GAUGES:
            self._registry.gauge(name).clear()
        for device in snapshot.devices:
            self._show_device(device, snapshot.devices_age_ms)
        self._count_xids()
        self._count_restarts()
        return self._registry.render()

    def _show_replica(self, pool: PoolView, replica: ReplicaView) -> None:
        labels = (pool.pool_id, replica.replica_id)
        states = self._registry.gauge("replica_state")
        for state in ReplicaState:
            states.labels(*labels, state).set(replica.state is state)
        self._registry.gauge("active_leases").labels(*labels).set(replica.slots_used)
        for name, field in REPLICA_GAUGES.items():
            figure = getattr(replica, field)
            if figure is not None:
                self._registry.gauge(name).labels(*labels).set(figure)
        if replica.kv_evictions is not None:
            self._count_evictions(labels, replica.kv_evictions)

    def _count_evictions(self, labels: tuple[str, str], count: int) -> None:
        """An engine counts from its own start: one that tells less than before is another."""
        before = self._evictions_counted.get(labels, 0)
        self._evictions_counted[labels] = count
        self._evictions.labels(*labels).inc(count - before if count >= before else count)

    def _show_device(self, device: DeviceView, age_ms: int | None) -> None:
        figures = {
            "gpu_utilization": device.utilization,
            "vram_used_bytes": device.used_bytes,
            "vram_total_bytes": device.total_bytes,
            "gpu_sample_age_seconds": None if age_ms is None else age_ms / 1000,
        }
        for name, value in figures.items():
            if value is not None:
                self._registry.gauge(name).labels(device.uuid).set(value)

    def _count_xids(self) -> None:
        for key, count in self._xid_errors.items():
            self._xids.labels(*key).inc(count - self._xids_counted.get(key, 0))
            self._xids_counted[key] = count

    def _count_restarts(self) -> None:
        for replica in self._replicas.values():
            for reason in RESTART_REASONS:
                count = replica.restarts.get(reason, 0)
                key = (replica.entry.replica_id, reason)
                # A replica that took the place of another one of its number begins at 0.
                new = max(0, count - self._counted.get(key, 0))
                self._counted[key] = count
                self._restarts.labels(replica.entry.pool.id, *key).inc(new)
