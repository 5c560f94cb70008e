"""The pools as orchestratord sees them, what they can do, and changes of them."""

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
from contracts.config import Limits
from contracts.errors import ErrorCode, Refusal
from contracts.ids import NAME_PATTERN
from contracts.pools import (
    DrainRequest,
    PoolChange,
    PoolHealth,
    PoolView,
    ReloadRequest,
    ReplicaState,
)
from contracts.service.envelope import contract_response, correlation_id
from contracts.service.json_body import read_contract
from contracts.service.routes import ApiRoute, Operation, Parameter, Scope
from orchestratord.domain.abilities import features, told, workloads
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.sampling import Profiles
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.sessions import SESSIONS_MAX
from orchestratord.domain.strictness import refusal_of_pool
from orchestratord.runtime.pool_changes import PoolChanges
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.runtime.reconfiguration import Configured

STRICT_REFUSAL_MAX = 512
_VERSION = version("llama-orch")


class PoolRoutes:
    """Pools, their health, and the capabilities of the whole."""

    def __init__(
        self,
        configured: Configured,
        pools: PoolsView,
        scheduler: Scheduler,
        changes: PoolChanges,
        limits: Limits,
        profiles: Profiles,
    ) -> None:
        self._configured = configured
        self._pools = pools
        self._scheduler = scheduler
        self._changes = changes
        self._limits = limits
        self._profiles = profiles

    async def page(self, _: Request) -> Response:
        """Every pool and every card."""
        return contract_response(
            PoolPage(
                items=tuple(self._status(spec) for spec in self._configured.specs),
                devices=self._pools.devices,
                devices_age_ms=self._pools.devices_age_ms,
                pool_manager="connected" if self._pools.connected else "away",
                next_cursor=None,
            )
        )

    async def health(self, request: Request) -> Response:
        """The health of one pool, as pool_managerd last told it."""
        return contract_response(self._view(self._named(request)).health())

    async def drain(self, request: Request) -> Response:
        """Admit nothing more; nothing is admitted once this is answered."""
        spec = self._named(request)
        wanted = await read_contract(request, DrainRequest, self._limits)
        change = await self._changes.drain(spec.pool_id, wanted, correlation_id(request))
        return contract_response(change, 202)

    async def reload(self, request: Request) -> Response:
        """Serve another model in the place of the present one."""
        spec = self._named(request)
        wanted = await read_contract(request, ReloadRequest, self._limits)
        change = await self._changes.reload(spec.pool_id, wanted, correlation_id(request))
        return contract_response(change, 202)

    async def resume(self, request: Request) -> Response:
        """Admit tasks again."""
        spec = self._named(request)
        change = await self._changes.resume(spec.pool_id, correlation_id(request))
        return contract_response(change, 202)

    async def capabilities(self, _: Request) -> Response:
        """What may be asked, from the live replicas."""
        config = self._configured.config
        limits, queue, sessions = config.limits, config.queue, config.sessions
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
                    stream_retention_ms=config.streams.retention_ms,
                ),
                sampler_profiles=tuple(sorted(self._profiles)),
                engines=tuple(sorted({spec.engine for spec in self._configured.specs})),
                pools=tuple(self._capabilities(spec) for spec in self._configured.specs),
            )
        )

    def _named(self, request: Request) -> PoolSpec:
        pool_id: str = request.path_params["pool_id"]
        for spec in self._configured.specs:
            if spec.pool_id == pool_id:
                return spec
        raise Refusal(ErrorCode.NOT_FOUND, "no such pool is configured")

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
        capabilities = told(view)
        refusal = refusal_of_pool(view, self._pools.devices)
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
            workloads=tuple(sorted(workloads(spec, capabilities))),
            features=tuple(sorted(features(capabilities) or ())),
            strict=refusal is None,
            strict_refusal=None if refusal is None else str(refusal)[:STRICT_REFUSAL_MAX],
            trtllm_version=next((c.trtllm_version for c in capabilities if c.trtllm_version), None),
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
        one = "/v1/pools/{pool_id}"
        return [
            ApiRoute("GET", "/v1/pools", self.page, scope=Scope.API, operation=_PAGE),
            ApiRoute("GET", f"{one}/health", self.health, scope=Scope.API, operation=_HEALTH),
            ApiRoute("POST", f"{one}/drain", self.drain, scope=Scope.API, operation=_DRAIN),
            ApiRoute("POST", f"{one}/reload", self.reload, scope=Scope.API, operation=_RELOAD),
            ApiRoute("POST", f"{one}/resume", self.resume, scope=Scope.API, operation=_RESUME),
            ApiRoute(
                "GET",
                "/v1/capabilities",
                self.capabilities,
                scope=Scope.API,
                operation=_CAPABILITIES,
            ),
        ]


_POOL_ID = Parameter("pool_id", "The pool.", {"type": "string", "pattern": NAME_PATTERN})
_OF_A_CHANGE = (
    ErrorCode.NOT_FOUND,
    ErrorCode.CONFLICT,
    ErrorCode.POOL_UNAVAILABLE,
    ErrorCode.SHUTTING_DOWN,
)
_PAGE = Operation("listPools", "Every pool and every card.", response=PoolPage)
_HEALTH = Operation(
    "getPoolHealth",
    "Whether a pool lives, is ready, and progresses.",
    response=PoolHealth,
    errors=(ErrorCode.NOT_FOUND,),
    path=(_POOL_ID,),
)
_DRAIN = Operation(
    "drainPool",
    "Admit nothing more to a pool; running tasks have until the deadline.",
    request=DrainRequest,
    response=PoolChange,
    status=202,
    errors=_OF_A_CHANGE,
    path=(_POOL_ID,),
)
_RELOAD = Operation(
    "reloadPool",
    "Serve another model; on any failure the last good one serves on.",
    request=ReloadRequest,
    response=PoolChange,
    status=202,
    errors=(
        *_OF_A_CHANGE,
        ErrorCode.INVALID_PARAMS,
        ErrorCode.MODEL_UNKNOWN,
        ErrorCode.POLICY_DENIED,
        ErrorCode.UNTRUSTED_ARTIFACT,
    ),
    path=(_POOL_ID,),
    admits_work=True,
)
_RESUME = Operation(
    "resumePool",
    "Admit tasks to a pool again.",
    response=PoolChange,
    status=202,
    errors=_OF_A_CHANGE,
    path=(_POOL_ID,),
)
_CAPABILITIES = Operation(
    "getCapabilities", "What may be asked of this orchestrator.", response=Capabilities
)
