"""Alive, ready, and the figures."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from contracts.errors import ErrorCode, Refusal
from contracts.health import Alive, Ready
from contracts.service.drain import Drain
from contracts.service.envelope import contract_response
from contracts.service.routes import PROMETHEUS_TEXT, ApiRoute, Operation, Scope
from pool_managerd.metrics import PoolMetrics


class ObservabilityRoutes:
    """Served once every supervisor was started, so that answering at all means ready."""

    def __init__(self, metrics: PoolMetrics, drain: Drain) -> None:
        self._metrics = metrics
        self._drain = drain

    async def healthz(self, _: Request) -> Response:
        """The process answers."""
        return contract_response(Alive())

    async def readyz(self, _: Request) -> Response:
        """Leases would be given, wherever a replica serves."""
        if self._drain.begun:
            raise Refusal(ErrorCode.SHUTTING_DOWN, "pool_managerd is stopping.")
        return contract_response(Ready())

    async def metrics(self, _: Request) -> Response:
        """Prometheus text."""
        return Response(self._metrics.render(), media_type=PROMETHEUS_TEXT)

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
    "Whether leases would be given.",
    response=Ready,
    errors=(ErrorCode.SHUTTING_DOWN,),
)
_METRICS = Operation("getMetrics", "Prometheus text.", media_type=PROMETHEUS_TEXT)
