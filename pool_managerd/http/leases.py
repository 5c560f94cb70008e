"""The right to a slot: given, renewed, given back."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from contracts.config import Limits
from contracts.errors import ErrorCode, Refusal
from contracts.ids import UUID_PATTERN, is_uuid
from contracts.pools import Lease, LeaseRenewal, LeaseRequest
from contracts.service.envelope import contract_response
from contracts.service.json_body import read_contract
from contracts.service.routes import ApiRoute, Operation, Parameter, Scope
from pool_managerd.leasing import Leasing


class LeaseRoutes:
    """`/v1/leases`."""

    def __init__(self, leasing: Leasing, limits: Limits) -> None:
        self._leasing = leasing
        self._limits = limits

    async def grant(self, request: Request) -> Response:
        """A new lease, or the one this attempt has already."""
        wanted = await read_contract(request, LeaseRequest, self._limits)
        return contract_response(self._leasing.grant(wanted), 201)

    async def renew(self, request: Request) -> Response:
        """Another TTL."""
        lease_id = _lease_id(request)
        wanted = await read_contract(request, LeaseRenewal, self._limits)
        return contract_response(self._leasing.renew(lease_id, wanted))

    async def release(self, request: Request) -> Response:
        """The slot is free; also where there was no such lease."""
        stalled = request.query_params.get("stalled", "false")
        if stalled not in ("true", "false"):
            raise Refusal(ErrorCode.INVALID_PARAMS, "stalled: must be `true` or `false`.")
        self._leasing.release(_lease_id(request), stalled=stalled == "true")
        return Response(status_code=204)

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        one = "/v1/leases/{lease_id}"
        return [
            ApiRoute("POST", "/v1/leases", self.grant, scope=Scope.API, operation=_GRANT),
            ApiRoute("PUT", one, self.renew, scope=Scope.API, operation=_RENEW),
            ApiRoute("DELETE", one, self.release, scope=Scope.API, operation=_RELEASE),
        ]


def _lease_id(request: Request) -> str:
    lease_id: str = request.path_params["lease_id"]
    if not is_uuid(lease_id):
        raise Refusal(ErrorCode.INVALID_PARAMS, "lease_id: a lease's id is a UUID.")
    return lease_id.lower()


_LEASE_ID = Parameter("lease_id", "The lease.", {"type": "string", "pattern": UUID_PATTERN})
_GRANT = Operation(
    "grantLease",
    "Take a slot of a replica for one attempt of a task.",
    request=LeaseRequest,
    response=Lease,
    status=201,
    errors=(ErrorCode.NOT_FOUND, ErrorCode.CONFLICT),
    admits_work=True,
)
_RENEW = Operation(
    "renewLease",
    "Keep a slot for another TTL.",
    request=LeaseRenewal,
    response=Lease,
    errors=(ErrorCode.INVALID_PARAMS, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT),
    path=(_LEASE_ID,),
)
_RELEASE = Operation(
    "releaseLease",
    "Give a slot back; a lease that is not known is released already.",
    status=204,
    errors=(ErrorCode.INVALID_PARAMS,),
    path=(_LEASE_ID,),
    query=(
        Parameter(
            "stalled",
            "Whether the engine sent nothing for too long: it must prove itself first.",
            {"type": "string", "enum": ["true", "false"]},
            required=False,
        ),
    ),
)
