"""The route table: the same list the server answers and the OpenAPI document tells."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.service.routes import ApiRoute
from pool_managerd.http.leases import LeaseRoutes
from pool_managerd.http.observability import ObservabilityRoutes
from pool_managerd.http.pools import PoolRoutes
from pool_managerd.http.replicas import ReplicaRoutes
from pool_managerd.http.snapshot import SnapshotRoutes


@dataclass(frozen=True, slots=True)
class RouteGroups:
    """Everything pool_managerd answers."""

    snapshot: SnapshotRoutes
    leases: LeaseRoutes
    pools: PoolRoutes
    replicas: ReplicaRoutes
    observability: ObservabilityRoutes

    def routes(self) -> list[ApiRoute]:
        """All routes, in the order they are matched."""
        return [
            *self.snapshot.routes(),
            *self.leases.routes(),
            *self.pools.routes(),
            *self.replicas.routes(),
            *self.observability.routes(),
        ]
