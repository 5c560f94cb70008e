"""Alive, ready, and the figures."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from contracts.errors import ErrorCode
from contracts.health import Alive, Ready
from contracts.service.drain import Drain
from contracts.service.envelope import contract_response
from contracts.service.prometheus import MetricsRegistry
from contracts.service.routes import PROMETHEUS_TEXT, ApiRoute, Operation, Scope
from orchestratord.errors import ShuttingDown


class ObservabilityRoutes:
    """Served only after recovery, so that answering at all means recovered."""

    def __init__(self, registry: MetricsRegistry, drain: Drain) -> None:
        self._registry = registry
        self._drain = drain

    async def healthz(self, _: Request) -> Response:
        """The process answers."""
        return contract_response(Alive())

    async def readyz(self, _: Request) -> Response:
        """It would accept work, whatever the engines do."""
        if self._drain.begun:
            raise ShuttingDown
        return contract_response(Ready())

    async def metrics(self, _: Request) -> Response:
        """Prometheus text."""
        return Response(self._registry.render(), media_type=PROMETHEUS_TEXT)

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        return [
            ApiRoute("GET", "/healthz", self.healthz, scope=Scope.PUBLIC, operation=_HEALTHZ),
            ApiRoute("GET", "/readyz", self.readyz, scope=Scope.PUBLIC, operation=_READYZ),
            ApiRoute("GET", "/metrics", self.metrics, scope=Scope.API, operation=_METRICS),
        ]


_HEALTHZ = Operation("getHealth", "Whether the process answers.", response=Alive)
_READYZ = Operation(
    "getReadiness",
    "Whether work would be accepted.",
    response=Ready,
    errors=(ErrorCode.SHUTTING_DOWN,),
)
_METRICS = Operation("getMetrics", "Prometheus text.", media_type=PROMETHEUS_TEXT)
