"""A route as a value: what it matches, who may call it, what it promises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope as AsgiScope

from contracts.errors import ErrorCode, Refusal
from contracts.model import Contract

Method = Literal["GET", "POST", "PUT", "DELETE"]
Endpoint = Callable[[Request], Awaitable[Response]]

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
PLAIN_TEXT = "text/plain; charset=utf-8"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Scope(StrEnum):
    """Who may call a route."""

    PUBLIC = "public"
    """Anyone who reaches the port."""
    API = "api"
    """Whoever shows the API token."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A path, query or header parameter, with its JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Success:
    """A further way to succeed, beside the one the operation's own fields tell."""

    status: int
    response: type[Contract] | None = None
    media_type: str = JSON
    description: str = "Success."


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route promises, as the OpenAPI document tells it.

    `errors` lists only what the handler itself refuses; what every route may
    answer (400, 401, 403, 405, 429, 431, 500; 408, 413, 415 with a body; 503 with
    `admits_work`) is added by the document.  `admits_work` closes the route while
    the daemon stops.  `path` gives schemas of path parameters, which are any text
    otherwise; `headers` are those of a success.
    """

    operation_id: str
    summary: str
    request: type[Contract] | None = None
    response: type[Contract] | None = None
    status: int = 200
    errors: tuple[ErrorCode, ...] = ()
    path: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    request_headers: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    media_type: str = JSON
    admits_work: bool = False
    also: tuple[Success, ...] = ()

    @property
    def streams(self) -> bool:
        """Whether a success is an event stream."""
        return self.media_type == EVENT_STREAM


class ApiRoute(Route):
    """One method on one path, with its scope: there is no route without one.

    HEAD is served wherever GET is, except on event streams, which would never
    end.  A path matches whole: a trailing newline is not forgiven.
    """

    def __init__(
        self,
        method: Method,
        path: str,
        endpoint: Endpoint,
        *,
        scope: Scope,
        operation: Operation,
    ) -> None:
        super().__init__(path, endpoint, methods=[method], name=operation.operation_id)
        self.method = method
        self.scope = scope
        self.operation = operation
        if operation.streams and self.methods:
            self.methods.discard("HEAD")

    def matches(self, scope: AsgiScope) -> tuple[Match, AsgiScope]:
        """As Starlette's, but on the whole path."""
        if scope["type"] == "http" and not self.path_regex.fullmatch(scope["path"]):
            return Match.NONE, {}
        return super().matches(scope)


class MethodNotAllowed(Refusal):
    """The path is served, but not for this method; `headers` carries Allow."""

    def __init__(self, method: str, routes: Sequence[ApiRoute]) -> None:
        allowed = ", ".join(sorted({name for route in routes for name in route.methods or ()}))
        super().__init__(
            ErrorCode.METHOD_NOT_ALLOWED, f"{method[:32]} is not served here; use {allowed}."
        )
        self.headers = {"Allow": allowed}


_ROUTE = "llorch.route"


def set_route(scope: AsgiScope, route: ApiRoute) -> None:
    """Remember what the path matched, for logs; done by the door."""
    scope[_ROUTE] = route.path


def route_template(scope: AsgiScope) -> str:
    """The template of the matched path, such as `/v1/tasks/{id}`; `none` where nothing did."""
    found: str = scope.get(_ROUTE, "none")
    return found
