"""The health of one pool, and its changes: drain, resume, reload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from contracts.config import Limits
from contracts.errors import ErrorCode, Refusal
from contracts.ids import NAME_PATTERN
from contracts.pools import DrainRequest, PoolChange, PoolHealth, ReloadRequest
from contracts.service.envelope import contract_response
from contracts.service.json_body import read_contract
from contracts.service.routes import ApiRoute, Operation, Parameter, Scope
from pool_managerd.managed_pool import ManagedPool
from pool_managerd.models.refs import RefInvalid, parse
from pool_managerd.snapshots import SnapshotBoard


class PoolRoutes:
    """`/v1/pools/{pool_id}`."""

    def __init__(
        self, board: SnapshotBoard, pools: Mapping[str, ManagedPool], limits: Limits
    ) -> None:
        self._board = board
        self._pools = pools
        self._limits = limits

    async def health(self, request: Request) -> Response:
        """Whether the pool lives, is ready, and progresses."""
        return contract_response(self._pool(request).view().health())

    async def drain(self, request: Request) -> Response:
        """No new lease from now on."""
        pool = self._pool(request)
        wanted = await read_contract(request, DrainRequest, self._limits)
        await pool.drain(wanted.deadline_ms)
        return self._begun(pool, "drain")

    async def resume(self, request: Request) -> Response:
        """Leases again."""
        pool = self._pool(request)
        await pool.resume()
        return self._begun(pool, "resume")

    async def reload(self, request: Request) -> Response:
        """Another model, or the old one."""
        pool = self._pool(request)
        wanted = await read_contract(request, ReloadRequest, self._limits)
        try:
            parse(wanted.new_model_ref)
        except RefInvalid as error:
            raise Refusal(ErrorCode.INVALID_PARAMS, f"new_model_ref: {error}") from error
        pool.reload(wanted)
        return self._begun(pool, "reload")

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        one = "/v1/pools/{pool_id}"
        return [
            ApiRoute("GET", f"{one}/health", self.health, scope=Scope.API, operation=_HEALTH),
            ApiRoute("POST", f"{one}/drain", self.drain, scope=Scope.API, operation=_DRAIN),
            ApiRoute("POST", f"{one}/reload", self.reload, scope=Scope.API, operation=_RELOAD),
            ApiRoute("POST", f"{one}/resume", self.resume, scope=Scope.API, operation=_RESUME),
        ]

    def _pool(self, request: Request) -> ManagedPool:
        pool = self._pools.get(request.path_params["pool_id"])
        if pool is None:
            raise Refusal(ErrorCode.NOT_FOUND, "No such pool is configured.")
        return pool

    def _begun(self, pool: ManagedPool, change: Literal["drain", "reload", "resume"]) -> Response:
        snapshot = self._board.current()
        begun = PoolChange(
            pool_id=pool.serving.id,
            change=change,
            draining=pool.draining,
            cut_at_ms=pool.cut_at_ms,
            instance_id=snapshot.instance_id,
            version=snapshot.version,
        )
        return contract_response(begun, 202)


_POOL = (Parameter("pool_id", "The pool.", {"type": "string", "pattern": NAME_PATTERN}),)
_HEALTH = Operation(
    "getPoolHealth",
    "Whether a pool lives, is ready, and progresses.",
    response=PoolHealth,
    errors=(ErrorCode.NOT_FOUND,),
    path=_POOL,
)
_DRAIN = Operation(
    "drainPool",
    "Give no new lease; what runs may finish, and is cut at the deadline.",
    request=DrainRequest,
    response=PoolChange,
    status=202,
    errors=(ErrorCode.NOT_FOUND,),
    path=_POOL,
)
_RELOAD = Operation(
    "reloadPool",
    "Serve another model; where it does not come to serve, the old one does again.",
    request=ReloadRequest,
    response=PoolChange,
    status=202,
    errors=(ErrorCode.NOT_FOUND, ErrorCode.CONFLICT),
    path=_POOL,
)
_RESUME = Operation(
    "resumePool",
    "Give leases again, and try again whatever had been given up.",
    response=PoolChange,
    status=202,
    errors=(ErrorCode.NOT_FOUND, ErrorCode.CONFLICT),
    path=_POOL,
)
