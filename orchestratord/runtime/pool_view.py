"""The newest snapshot of pool_managerd, as placement and admission read it."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.pools import (
    DeviceView,
    PoolChange,
    PoolView,
    ReloadState,
    ReplicaState,
    ReplicaView,
    Snapshot,
)
from orchestratord.domain.placement import Candidate
from orchestratord.domain.prediction import Average

DISTRUST_S = 0.5
COMING_UP = frozenset({ReplicaState.PROVISIONING, ReplicaState.STARTING})


class PoolsView:
    """One owner of the snapshot; kept while pool_managerd is away, and marked so.

    A change that pool_managerd has answered holds here at once, before the 202
    leaves: until the snapshot that shows it, the pool is read as the answer said.
    Snapshots come on another connection than answers, so an older one may come
    later; the answer names the snapshot from which on it is to be seen.
    """

    def __init__(self, reserve_bytes: int = 0) -> None:
        self._reserve_bytes = reserve_bytes
        self.connected = False
        self.devices: tuple[DeviceView, ...] = ()
        self.devices_age_ms: int | None = None
        self.instance_id: str | None = None
        """The start of pool_managerd whose snapshot this is."""
        self._changes: dict[str, PoolChange] = {}
        self._changed_under: dict[str, str | None] = {}
        self._seen: Snapshot | None = None
        self._cuts: dict[tuple[str, int], float] = {}
        self._pools: dict[str, PoolView] = {}
        self._candidates: dict[str, list[Candidate]] = {}
        self._distrusted: dict[str, float] = {}
        self._coming_since: dict[str, float] = {}
        self._load_ms: dict[str, Average] = {}

    @property
    def pools(self) -> dict[str, PoolView]:
        """Every pool by id, as last seen."""
        return self._pools

    def update(self, snapshot: Snapshot | None, now: float, unix_ms: int) -> None:
        """Take a snapshot; None says that pool_managerd is away.

        `unix_ms` is the same instant as `now`: what the snapshot dates is measured
        on the monotonic clock from here on.
        """
        self.connected = snapshot is not None
        if snapshot is None:
            return
        self.instance_id = snapshot.instance_id
        self._seen = snapshot
        self._changes = {
            pool_id: change
            for pool_id, change in self._changes.items()
            if not self._shows(snapshot, change)
        }
        self._note_loads(snapshot, now)
        self._read(snapshot, now, unix_ms)

    def note(self, change: PoolChange, now: float, unix_ms: int) -> None:
        """Take what pool_managerd answered to a drain, a reload or a resume."""
        known = self._changes.get(change.pool_id)
        overtaken = (
            known is not None
            and known.instance_id == change.instance_id
            and known.version > change.version
        )
        seen = self._seen
        if overtaken or seen is None:
            return
        self._changed_under[change.pool_id] = seen.instance_id
        if self._shows(seen, change):
            self._changes.pop(change.pool_id, None)
        else:
            self._changes[change.pool_id] = change
        self._read(seen, now, unix_ms)

    def cut_at(self, replica_id: str) -> float | None:
        """When the running tasks of a replica that drains are cut, monotonic seconds."""
        replica = self.replica(replica_id)
        if replica is None or replica.state is not ReplicaState.DRAINING:
            return None
        return (
            None if replica.cut_at_ms is None else self._cuts.get((replica_id, replica.cut_at_ms))
        )

    def _shows(self, snapshot: Snapshot, change: PoolChange) -> bool:
        """Whether a snapshot was made after a change, so that its own word holds.

        One of the start that answered says so by its version.  One of another
        start is older if that start was seen before the answer came, and newer
        otherwise.
        """
        if snapshot.instance_id == change.instance_id:
            return snapshot.version >= change.version
        return snapshot.instance_id != self._changed_under.get(change.pool_id)

    def _read(self, snapshot: Snapshot, now: float, unix_ms: int) -> None:
        pools = [_as_changed(pool, self._changes.get(pool.pool_id)) for pool in snapshot.pools]
        self.devices = snapshot.devices
        self.devices_age_ms = snapshot.devices_age_ms
        self._pools = {pool.pool_id: pool for pool in pools}
        self._cuts = {
            key: self._cuts.get(key, now + (key[1] - unix_ms) / 1000)
            for pool in pools
            for replica in pool.replicas
            if replica.cut_at_ms is not None
            for key in [(replica.replica_id, replica.cut_at_ms)]
        }
        free = {device.uuid: self._free_bytes(device) for device in snapshot.devices}
        self._candidates = {
            pool.pool_id: [self._candidate(pool, replica, free, now) for replica in pool.replicas]
            for pool in pools
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
        if since is None or load_ms is None or (pool.draining and not is_reloading(pool)):
            return None
        return max(0.0, load_ms - (now - since) * 1000)

    def _note_loads(self, snapshot: Snapshot, now: float) -> None:
        there = {replica.replica_id for pool in snapshot.pools for replica in pool.replicas}
        self._coming_since = {r: at for r, at in self._coming_since.items() if r in there}
        for pool in snapshot.pools:
            for replica in pool.replicas:
                if replica.state in COMING_UP:
                    self._coming_since.setdefault(replica.replica_id, now)
                    continue
                since = self._coming_since.pop(replica.replica_id, None)
                if since is not None and replica.state is ReplicaState.READY:
                    load = self._load_ms.setdefault(pool.pool_id, Average())
                    load.add((now - since) * 1000)


def is_reloading(pool: PoolView) -> bool:
    """Whether another model is on its way into the pool."""
    return pool.reload is not None and pool.reload.state is ReloadState.RUNNING


def _as_changed(pool: PoolView, change: PoolChange | None) -> PoolView:
    """A pool as it is after a change that its snapshot does not show yet."""
    if change is None:
        return pool
    replicas = pool.replicas
    if change.draining or not is_reloading(pool):
        replicas = tuple(_as_drained(replica, change) for replica in replicas)
    serves = any(replica.state is ReplicaState.READY for replica in replicas)
    return pool.model_copy(
        update={
            "draining": change.draining,
            "ready": serves and not change.draining,
            "replicas": replicas,
        }
    )


def _as_drained(replica: ReplicaView, change: PoolChange) -> ReplicaView:
    """What drains is cut when the answer says; nothing is cut of a pool that was resumed."""
    serves = replica.state in (ReplicaState.READY, ReplicaState.DRAINING)
    if change.change == "reload" or not serves:
        return replica
    state = ReplicaState.DRAINING if change.draining else ReplicaState.READY
    return replica.model_copy(update={"state": state, "cut_at_ms": change.cut_at_ms})
