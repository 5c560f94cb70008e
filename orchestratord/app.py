"""The route table: the same list the server answers and the OpenAPI document tells."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.service.routes import ApiRoute
from orchestratord.http.observability import ObservabilityRoutes
from orchestratord.http.pools import PoolRoutes
from orchestratord.http.sessions import SessionRoutes
from orchestratord.http.tasks import TaskRoutes


@dataclass(frozen=True, slots=True)
class RouteGroups:
    """Everything orchestratord answers."""

    tasks: TaskRoutes
    sessions: SessionRoutes
    pools: PoolRoutes
    observability: ObservabilityRoutes

    def routes(self) -> list[ApiRoute]:
        """All routes, in the order they are matched."""
        return [
            *self.tasks.routes(),
            *self.sessions.routes(),
            *self.pools.routes(),
            *self.observability.routes(),
        ]
