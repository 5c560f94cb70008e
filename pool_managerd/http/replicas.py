"""Where one replica serves: for questions to its engine that take no slot."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from contracts.errors import ErrorCode, Refusal
from contracts.ids import NAME_PATTERN
from contracts.pools import Endpoint
from contracts.service.envelope import contract_response
from contracts.service.routes import ApiRoute, Operation, Parameter, Scope
from pool_managerd.replica import Replica


class ReplicaRoutes:
    """`/v1/replicas/{pool_id}/{index}`."""

    def __init__(self, replicas: Mapping[str, Replica]) -> None:
        self._replicas = replicas

    async def endpoint(self, request: Request) -> Response:
        """Address and key of a replica that can take work."""
        replica_id = f"{request.path_params['pool_id']}/{request.path_params['index']}"
        replica = self._replicas.get(replica_id)
        if replica is None:
            raise Refusal(ErrorCode.NOT_FOUND, "No such replica is configured.")
        if replica.endpoint is None or not replica.slots_open:
            raise Refusal(ErrorCode.CONFLICT, f"{replica_id} is not ready.")
        found = replica.endpoint
        return contract_response(Endpoint(base_url=found.base_url, api_key=found.api_key))

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        return [
            ApiRoute(
                "GET",
                "/v1/replicas/{pool_id}/{index}/endpoint",
                self.endpoint,
                scope=Scope.API,
                operation=_ENDPOINT,
            )
        ]


_ENDPOINT = Operation(
    "getReplicaEndpoint",
    "Where a replica serves, and the key it takes: for questions that take no slot.",
    response=Endpoint,
    errors=(ErrorCode.NOT_FOUND, ErrorCode.CONFLICT),
    path=(
        Parameter("pool_id", "The pool.", {"type": "string", "pattern": NAME_PATTERN}),
        Parameter("index", "The replica's index.", {"type": "string", "pattern": "^[0-9]{1,3}$"}),
    ),
)
