"""The one door: routes behind authentication, behind everything every answer has."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from contracts.config import Listen
from contracts.errors import ErrorCode, Refusal
from contracts.service.api_token import Secret
from contracts.service.drain import OVERLOAD_RETRY_MS, Drain
from contracts.service.hosts import AllowedHosts
from contracts.service.middleware import Correlation, Errors, Framing, InFlight, UnreadBody
from contracts.service.routes import ApiRoute, MethodNotAllowed, Scope, set_route
from contracts.service.settings import Settings


def build_app(
    routes: Sequence[ApiRoute], *, settings: Settings, listen: Listen, drain: Drain
) -> ASGIApp:
    """Everything a daemon answers, as one ASGI application for HTTP.

    Raises:
        ValueError: two routes have the same method and path.
    """
    limits = settings.config.limits
    hosts = AllowedHosts(listen.host, settings.config.auth.allowed_hosts)
    public_metrics = settings.config.observability.metrics_public
    app: ASGIApp = Door(routes, settings.token, drain, public_metrics=public_metrics)
    app = Framing(app, hosts)
    app = InFlight(app, limits)
    app = Errors(app)
    app = UnreadBody(app, limits)
    return Correlation(app)


class Door:
    """Match a route, then ask for its token, then look at its method.

    The decision hangs on the matched route object, never on a path prefix or a
    URL.  What matches nothing needs the token too, so that a stranger cannot
    tell which paths exist.
    """

    def __init__(
        self, routes: Sequence[ApiRoute], token: Secret, drain: Drain, *, public_metrics: bool
    ) -> None:
        _refuse_twins(routes)
        self._routes = tuple(routes)
        self._token = token
        self._drain = drain
        self._public = {"/metrics"} if public_metrics else set()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        route, others = self._match(scope)
        self._authorise(scope, [route] if route else others)
        if route is None:
            if not others:
                raise Refusal(ErrorCode.NOT_FOUND, "No such path.")
            raise MethodNotAllowed(scope["method"], others)
        if route.operation.admits_work and self._drain.begun:
            raise Refusal(
                ErrorCode.SHUTTING_DOWN,
                "The daemon is stopping and takes no new work.",
                retry_after_ms=OVERLOAD_RETRY_MS,
            )
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    def _match(self, scope: AsgiScope) -> tuple[ApiRoute | None, list[ApiRoute]]:
        others = []
        for route in self._routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                scope.update(child)
                set_route(scope, route)
                return route, []
            if match is Match.PARTIAL:
                set_route(scope, route)
                others.append(route)
        return None, others

    def _authorise(self, scope: AsgiScope, routes: list[ApiRoute]) -> None:
        if routes and all(self._is_public(route) for route in routes):
            return
        shown = _credentials(Headers(scope=scope))
        if len(shown) != 1 or not self._token.matches(shown[0]):
            raise Refusal(
                ErrorCode.UNAUTHENTICATED,
                "Send the API token, once, as `Authorization: Bearer TOKEN` or `x-api-key`.",
            )

    def _is_public(self, route: ApiRoute) -> bool:
        return route.scope is Scope.PUBLIC or route.path in self._public


def _credentials(headers: Headers) -> list[bytes]:
    """Every token shown, whichever header it came in; one that is none reads as empty."""
    shown = [value.encode("latin-1") for value in headers.getlist("x-api-key")]
    for value in headers.getlist("authorization"):
        scheme, _, token = value.partition(" ")
        shown.append(token.encode("latin-1") if scheme.lower() == "bearer" else b"")
    return shown


def _refuse_twins(routes: Sequence[ApiRoute]) -> None:
    seen: set[tuple[str, str]] = set()
    for route in routes:
        key = (route.method, route.path)
        if key in seen:
            raise ValueError(f"two routes serve {route.method} {route.path}")
        seen.add(key)
