"""The newest snapshot of pool_managerd, as placement and admission read it."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.pools import DeviceView, PoolView, ReplicaState, ReplicaView, Snapshot
from orchestratord.domain.placement import Candidate
from orchestratord.domain.prediction import Average

DISTRUST_S = 0.5
COMING_UP = frozenset({ReplicaState.PROVISIONING, ReplicaState.STARTING})


class PoolsView:
    """One owner of the snapshot; kept while pool_managerd is away, and marked so."""

    def __init__(self, reserve_bytes: int = 0) -> None:
        self._reserve_bytes = reserve_bytes
        self.connected = False
        self.devices: tuple[DeviceView, ...] = ()
        self.devices_age_ms: int | None = None
        self._pools: dict[str, PoolView] = {}
        self._candidates: dict[str, list[Candidate]] = {}
        self._distrusted: dict[str, float] = {}
        self._coming_since: dict[str, float] = {}
        self._load_ms: dict[str, Average] = {}

    @property
    def pools(self) -> dict[str, PoolView]:
        """Every pool by id, as last seen."""
        return self._pools

    def update(self, snapshot: Snapshot | None, now: float) -> None:
        """Take a snapshot; None says that pool_managerd is away."""
        self.connected = snapshot is not None
        if snapshot is None:
            return
        self.devices = snapshot.devices
        self.devices_age_ms = snapshot.devices_age_ms
        self._pools = {pool.pool_id: pool for pool in snapshot.pools}
        self._note_loads(snapshot, now)
        free = {device.uuid: self._free_bytes(device) for device in snapshot.devices}
        self._candidates = {
            pool.pool_id: [self._candidate(pool, replica, free, now) for replica in pool.replicas]
            for pool in snapshot.pools
        }

    def distrust(self, replica_id: str, now: float) -> None:
        """Place nothing on a replica for a moment.

        A replica that just failed a task still looks ready until
        pool_managerd has seen its death; without this the same task would be
        placed on it again at once, and again.
        """
        self._distrusted[replica_id] = now + DISTRUST_S

    def candidates(self, now: float) -> dict[str, list[Candidate]]:
        """Replicas of every pool; none while pool_managerd is away, as no lease can be had."""
        if not self.connected:
            return {}
        self._distrusted = {r: until for r, until in self._distrusted.items() if until > now}
        if not self._distrusted:
            return self._candidates
        return {
            pool_id: [c for c in candidates if c.replica_id not in self._distrusted]
            for pool_id, candidates in self._candidates.items()
        }

    def replicas(self, pool_id: str) -> Sequence[Candidate]:
        """Replicas of one pool for a prediction, distrusted or not."""
        return self._candidates.get(pool_id, ()) if self.connected else ()

    def engine_version(self, pool_id: str) -> str | None:
        """What the replicas of a pool report; None until one has."""
        pool = self._pools.get(pool_id)
        versions = (replica.engine_version for replica in pool.replicas) if pool else ()
        return next(filter(None, versions), None)

    def replica(self, replica_id: str) -> ReplicaView | None:
        """One replica as last seen."""
        for pool in self._pools.values():
            for replica in pool.replicas:
                if replica.replica_id == replica_id:
                    return replica
        return None

    def _free_bytes(self, device: DeviceView) -> int:
        """What a card has left beyond the reserve; nothing where it cannot be told."""
        if device.used_bytes is None or device.health != "ok":
            return 0
        return max(0, device.total_bytes - device.used_bytes - self._reserve_bytes)

    def _candidate(
        self, pool: PoolView, replica: ReplicaView, free: dict[str, int], now: float
    ) -> Candidate:
        ready = replica.state is ReplicaState.READY and not pool.draining
        return Candidate(
            replica_id=replica.replica_id,
            ready=ready,
            slots_total=replica.slots_total if ready else pool.slots,
            free_vram_bytes=min((free.get(uuid, 0) for uuid in replica.devices), default=0),
            ready_in_ms=0.0 if ready else self._ready_in_ms(pool, replica, now),
        )

    def _ready_in_ms(self, pool: PoolView, replica: ReplicaView, now: float) -> float | None:
        """When a replica that is coming up will serve, from how long its pool's loads took."""
        since = self._coming_since.get(replica.replica_id)
        load_ms = self._load_ms.setdefault(pool.pool_id, Average()).value
        if pool.draining or since is None or load_ms is None:
            return None
        return max(0.0, load_ms - (now - since) * 1000)

    def _note_loads(self, snapshot: Snapshot, now: float) -> None:
        for pool in snapshot.pools:
            for replica in pool.replicas:
                if replica.state in COMING_UP:
                    self._coming_since.setdefault(replica.replica_id, now)
                    continue
                since = self._coming_since.pop(replica.replica_id, None)
                if since is not None and replica.state is ReplicaState.READY:
                    load = self._load_ms.setdefault(pool.pool_id, Average())
                    load.add((now - since) * 1000)
