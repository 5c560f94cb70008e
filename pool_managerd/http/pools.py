"""The health of one pool."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from contracts.errors import ErrorCode, Refusal
from contracts.ids import NAME_PATTERN
from contracts.pools import PoolHealth
from contracts.service.envelope import contract_response
from contracts.service.routes import ApiRoute, Operation, Parameter, Scope
from pool_managerd.snapshots import SnapshotBoard


class PoolRoutes:
    """`GET /v1/pools/{pool_id}/health`."""

    def __init__(self, board: SnapshotBoard) -> None:
        self._board = board

    async def health(self, request: Request) -> Response:
        """Whether the pool lives, is ready, and progresses."""
        for pool in self._board.current().pools:
            if pool.pool_id == request.path_params["pool_id"]:
                fields = {name: getattr(pool, name) for name in PoolHealth.model_fields}
                return contract_response(PoolHealth(**fields))
        raise Refusal(ErrorCode.NOT_FOUND, "No such pool is configured.")

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        return [
            ApiRoute(
                "GET",
                "/v1/pools/{pool_id}/health",
                self.health,
                scope=Scope.API,
                operation=_HEALTH,
            )
        ]


_HEALTH = Operation(
    "getPoolHealth",
    "Whether a pool lives, is ready, and progresses.",
    response=PoolHealth,
    errors=(ErrorCode.NOT_FOUND,),
    path=(Parameter("pool_id", "The pool.", {"type": "string", "pattern": NAME_PATTERN}),),
)
