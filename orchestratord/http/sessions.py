"""Sessions: read, allowed more or less, ended."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from contracts.config import Limits
from contracts.errors import ErrorCode, Refusal
from contracts.ids import UUID_PATTERN, is_uuid
from contracts.service.envelope import contract_response
from contracts.service.json_body import read_contract
from contracts.service.routes import ApiRoute, Operation, Parameter, Scope
from contracts.sessions import SessionPage, SessionSettings, SessionView
from orchestratord.http.query import LIMIT, bad_query, page_limit
from orchestratord.runtime.sessions import Sessions

_CURSOR_PATTERN = r"^[0-9]{15}-[0-9a-f-]{36}$"
_CURSOR = re.compile(_CURSOR_PATTERN)


class SessionRoutes:
    """`/v1/sessions`."""

    def __init__(self, sessions: Sessions, limits: Limits) -> None:
        self._sessions = sessions
        self._limits = limits

    async def page(self, request: Request) -> Response:
        """Sessions, newest first."""
        query = request.query_params
        limit = page_limit(query)
        cursor = query.get("cursor")
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise bad_query("cursor", "must be the next_cursor of a page")
        page = self._sessions.page(cursor, limit)
        return contract_response(SessionPage(items=tuple(page.items), next_cursor=page.next_before))

    async def get(self, request: Request) -> Response:
        """One session as of now."""
        return contract_response(self._sessions.get(_session_id(request)))

    async def put(self, request: Request) -> Response:
        """What one agent is allowed; begins the session where there is none."""
        text: str = request.path_params["session_id"]
        if not is_uuid(text):
            raise bad_query("session_id", "a session id is a UUID")
        settings = await read_contract(request, SessionSettings, self._limits)
        return contract_response(await self._sessions.put(text.lower(), settings))

    async def delete(self, request: Request) -> Response:
        """End a session and cancel its queued tasks."""
        await self._sessions.delete(_session_id(request))
        return Response(status_code=204)

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        one = "/v1/sessions/{session_id}"
        return [
            ApiRoute("GET", "/v1/sessions", self.page, scope=Scope.API, operation=_PAGE),
            ApiRoute("GET", one, self.get, scope=Scope.API, operation=_GET),
            ApiRoute("PUT", one, self.put, scope=Scope.API, operation=_PUT),
            ApiRoute("DELETE", one, self.delete, scope=Scope.API, operation=_DELETE),
        ]


def _session_id(request: Request) -> str:
    """The id in the path, lower case; what is no UUID is the id of no session."""
    text: str = request.path_params["session_id"]
    if not is_uuid(text):
        raise Refusal(ErrorCode.NOT_FOUND, "a session id is a UUID; this is none")
    return text.lower()


_SESSION_ID = Parameter("session_id", "The session.", {"type": "string", "pattern": UUID_PATTERN})
_PAGE = Operation(
    "listSessions",
    "Sessions, newest first.",
    response=SessionPage,
    query=(
        LIMIT,
        Parameter(
            "cursor",
            "`next_cursor` of the page before.",
            {"type": "string", "pattern": _CURSOR_PATTERN},
        ),
    ),
)
_GET = Operation(
    "getSession",
    "One session as of now.",
    response=SessionView,
    errors=(ErrorCode.NOT_FOUND,),
    path=(_SESSION_ID,),
)
_PUT = Operation(
    "putSession",
    "Say what one agent is allowed; what it spent stays.",
    request=SessionSettings,
    response=SessionView,
    errors=(
        ErrorCode.INVALID_PARAMS,
        ErrorCode.ADMISSION_REJECT,
        ErrorCode.STORAGE_BUSY,
        ErrorCode.STORAGE_FULL,
    ),
    path=(_SESSION_ID,),
    admits_work=True,
)
_DELETE = Operation(
    "deleteSession",
    "End a session and cancel its queued tasks; what it spent counts until its TTL.",
    status=204,
    errors=(ErrorCode.NOT_FOUND, ErrorCode.STORAGE_BUSY, ErrorCode.STORAGE_FULL),
    path=(_SESSION_ID,),
)
