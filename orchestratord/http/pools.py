"""The pools as orchestratord sees them, and what may be asked of them."""

from __future__ import annotations

from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import Response

from contracts.capabilities import (
    Capabilities,
    LimitsView,
    PoolCapabilities,
    PoolPage,
    PoolStatus,
)
from contracts.config import Config
from contracts.errors import ErrorCode, Refusal
from contracts.ids import NAME_PATTERN
from contracts.pools import PoolHealth, PoolView, ReplicaState
from contracts.service.envelope import contract_response
from contracts.service.routes import ApiRoute, Operation, Parameter, Scope
from contracts.tasks import Workload
from orchestratord.domain.admission import PoolSpec
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.sessions import SESSIONS_MAX
from orchestratord.runtime.pool_view import PoolsView

_VERSION = version("llama-orch")


class PoolRoutes:
    """Pools, their health, and the capabilities of the whole."""

    def __init__(
        self, specs: list[PoolSpec], pools: PoolsView, scheduler: Scheduler, config: Config
    ) -> None:
        self._specs = specs
        self._pools = pools
        self._scheduler = scheduler
        self._config = config

    async def page(self, _: Request) -> Response:
        """Every pool and every card."""
        return contract_response(
            PoolPage(
                items=tuple(self._status(spec) for spec in self._specs),
                devices=self._pools.devices,
                devices_age_ms=self._pools.devices_age_ms,
                pool_manager="connected" if self._pools.connected else "away",
                next_cursor=None,
            )
        )

    async def health(self, request: Request) -> Response:
        """The health of one pool, as pool_managerd last told it."""
        pool_id: str = request.path_params["pool_id"]
        for spec in self._specs:
            if spec.pool_id == pool_id:
                view = self._view(spec)
                fields = {name: getattr(view, name) for name in PoolHealth.model_fields}
                return contract_response(PoolHealth(**fields))
        raise Refusal(ErrorCode.NOT_FOUND, "no such pool is configured")

    async def capabilities(self, _: Request) -> Response:
        """What may be asked, from the live replicas."""
        limits, queue, sessions = self._config.limits, self._config.queue, self._config.sessions
        return contract_response(
            Capabilities(
                api_version="v1",
                version=_VERSION,
                limits=LimitsView(
                    body_bytes=limits.body_bytes,
                    body_timeout_ms=limits.body_timeout_ms,
                    connections=limits.connections,
                    streams=limits.streams,
                    json_depth=limits.json_depth,
                    queue_capacity=queue.capacity,
                    queue_policy=queue.policy,
                    batch_max_wait_ms=queue.batch_max_wait_ms,
                    sessions=SESSIONS_MAX,
                    session_ttl_ms=sessions.ttl_ms,
                    session_max_turns=sessions.max_turns,
                    stream_retention_ms=self._config.streams.retention_ms,
                ),
                engines=tuple(sorted({spec.engine for spec in self._specs})),
                pools=tuple(self._capabilities(spec) for spec in self._specs),
            )
        )

    def _status(self, spec: PoolSpec) -> PoolStatus:
        view = self._view(spec)
        fields = {name: getattr(view, name) for name in PoolView.model_fields}
        return PoolStatus(
            **fields,
            queue_depth=self._scheduler.waiting(spec.pool_id),
            running=self._scheduler.running(spec.pool_id),
        )

    def _capabilities(self, spec: PoolSpec) -> PoolCapabilities:
        view = self._view(spec)
        ready = [r for r in view.replicas if r.state is ReplicaState.READY]
        total = sum(replica.slots_total for replica in ready)
        used = sum(self._scheduler.active(replica.replica_id) for replica in ready)
        served = [replica.ctx for replica in ready if replica.ctx is not None]
        return PoolCapabilities(
            pool_id=spec.pool_id,
            engine=spec.engine,
            engine_version=next((r.engine_version for r in ready if r.engine_version), None),
            model_id=spec.model_id,
            model_digest=next((r.model_digest for r in ready if r.model_digest), None),
            ctx_max=min([spec.ctx, *served]),
            slots_total=total,
            slots_free=max(0, total - used),
            workloads=(Workload.COMPLETION, Workload.CHAT),
            features=("cancel", "resume", "seed", "stop"),
        )

    def _view(self, spec: PoolSpec) -> PoolView:
        """The pool as last seen; one pool_managerd has not told of yet has no replica."""
        seen = self._pools.pools.get(spec.pool_id)
        if seen is not None:
            return seen
        return PoolView(
            pool_id=spec.pool_id,
            live=False,
            ready=False,
            draining=False,
            progressing=True,
            restarts=0,
            breaker="closed",
            last_error=None,
            replicas=(),
            engine=spec.engine,
            model_id=spec.model_id,
            model_ref=spec.model_ref,
            ctx=spec.ctx,
            slots=1,
        )

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        return [
            ApiRoute("GET", "/v1/pools", self.page, scope=Scope.API, operation=_PAGE),
            ApiRoute(
                "GET", "/v1/pools/{pool_id}/health", self.health, scope=Scope.API, operation=_HEALTH
            ),
            ApiRoute(
                "GET",
                "/v1/capabilities",
                self.capabilities,
                scope=Scope.API,
                operation=_CAPABILITIES,
            ),
        ]


_PAGE = Operation("listPools", "Every pool and every card.", response=PoolPage)
_HEALTH = Operation(
    "getPoolHealth",
    "Whether a pool lives, is ready, and progresses.",
    response=PoolHealth,
    errors=(ErrorCode.NOT_FOUND,),
    path=(Parameter("pool_id", "The pool.", {"type": "string", "pattern": NAME_PATTERN}),),
)
_CAPABILITIES = Operation(
    "getCapabilities", "What may be asked of this orchestrator.", response=Capabilities
)
