"""One replica: where it serves, for questions that take no slot, and what it writes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import anyio
import anyio.lowlevel
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.errors import ErrorCode, Refusal
from contracts.ids import NAME_PATTERN
from contracts.pools import Endpoint
from contracts.service.drain import Drain
from contracts.service.envelope import contract_response, server_send
from contracts.service.routes import PLAIN_TEXT, ApiRoute, Operation, Parameter
from contracts.service.routes import Scope as AuthScope
from pool_managerd.log_lines import lines_of
from pool_managerd.replica import Replica
from pool_managerd.replica_log import ReplicaLog

TAIL_LINES = 200
TAIL_LINES_MAX = 10_000

_NUMBER = re.compile(r"[0-9]{1,5}")


class ReplicaRoutes:
    """`/v1/replicas/{pool_id}/{index}`."""

    def __init__(self, replicas: Mapping[str, Replica], drain: Drain) -> None:
        self._replicas = replicas
        self._drain = drain

    async def endpoint(self, request: Request) -> Response:
        """Address and key of a replica that can take work."""
        replica_id = _replica_id(request)
        replica = self._replica(replica_id)
        if replica.endpoint is None or not replica.slots_open:
            raise Refusal(ErrorCode.CONFLICT, f"{replica_id} is not ready.")
        found = replica.endpoint
        return contract_response(Endpoint(base_url=found.base_url, api_key=found.api_key))

    async def log(self, request: Request) -> Response:
        """The last lines of its log, and with `follow` what comes, until this daemon stops."""
        replica_id, query = _replica_id(request), request.query_params
        found = self._replica(replica_id).log
        if found is None:
            raise Refusal(
                ErrorCode.NOT_FOUND,
                f"{replica_id} is not started by pool_managerd, which has no log of it;"
                " look where it is started.",
            )
        last, follow = _tail(query.get("tail")), _follow(query.get("follow"))
        # An answer to HEAD has no lines to wait for.
        follow = follow and request.method != "HEAD"

        def newest() -> ReplicaLog | None:
            replica = self._replicas.get(replica_id)
            return None if replica is None else replica.log

        position = await anyio.to_thread.run_sync(found.start_of_last, last)
        lines = lines_of(newest, position, lambda: follow and not self._drain.begun)
        return LinesResponse(lines, self._drain)

    def _replica(self, replica_id: str) -> Replica:
        replica = self._replicas.get(replica_id)
        if replica is None:
            raise Refusal(ErrorCode.NOT_FOUND, "No such replica is configured.")
        return replica

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        return [
            ApiRoute(
                "GET",
                "/v1/replicas/{pool_id}/{index}/endpoint",
                self.endpoint,
                scope=AuthScope.API,
                operation=_ENDPOINT,
            ),
            ApiRoute(
                "GET",
                "/v1/replicas/{pool_id}/{index}/log",
                self.log,
                scope=AuthScope.API,
                operation=_LOG,
            ),
        ]


class LinesResponse(Response):
    """Lines as they come, until they end or the reader leaves.

    The stream is counted around the whole answer and not in its generator, which
    never runs when a client leaves before the body begins.  The deadline on a reader
    that stalls is the connection's.
    """

    media_type = PLAIN_TEXT

    def __init__(self, lines: AsyncGenerator[list[str], None], drain: Drain) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._lines = lines
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them; raises `Refusal` before the headers where too many streams are open."""
        with self._drain.stream():
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            async with anyio.create_task_group() as group:
                group.start_soon(_end_when_gone, receive, group.cancel_scope)
                await self._send_lines(server_send(scope))
                group.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_lines(self, send: Send) -> None:
        async with aclosing(self._lines) as pieces:
            async for lines in pieces:
                body = "".join(f"{line}\n" for line in lines).encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await anyio.lowlevel.checkpoint()


async def _end_when_gone(receive: Receive, answer: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.cancel()


def _replica_id(request: Request) -> str:
    return f"{request.path_params['pool_id']}/{request.path_params['index']}"


def _tail(text: str | None) -> int:
    if text is None:
        return TAIL_LINES
    if not _NUMBER.fullmatch(text) or int(text) > TAIL_LINES_MAX:
        raise Refusal(
            ErrorCode.INVALID_PARAMS, f"tail: write a whole number, at most {TAIL_LINES_MAX}."
        )
    return int(text)


def _follow(text: str | None) -> bool:
    if text not in (None, "true", "false"):
        raise Refusal(ErrorCode.INVALID_PARAMS, "follow: write true or false.")
    return text == "true"


_PATH = (
    Parameter("pool_id", "The pool.", {"type": "string", "pattern": NAME_PATTERN}),
    Parameter("index", "The replica's index.", {"type": "string", "pattern": "^[0-9]{1,3}$"}),
)
_ENDPOINT = Operation(
    "getReplicaEndpoint",
    "Where a replica serves, and the key it takes: for questions that take no slot.",
    response=Endpoint,
    errors=(ErrorCode.NOT_FOUND, ErrorCode.CONFLICT),
    path=_PATH,
)
_LOG = Operation(
    "getReplicaLog",
    "The last lines of what a replica's processes write, and with `follow` those that come:"
    " over cuts of the log and restarts of the replica, until the daemon stops. Keys are blanked,"
    " control characters replaced, long lines cut.",
    errors=(ErrorCode.NOT_FOUND, ErrorCode.ADMISSION_REJECT),
    media_type=PLAIN_TEXT,
    path=_PATH,
    query=(
        Parameter(
            "tail",
            f"How many lines of those that are there; {TAIL_LINES} where it is left out.",
            {"type": "integer", "minimum": 0, "maximum": TAIL_LINES_MAX},
        ),
        Parameter("follow", "Whether to go on.", {"type": "boolean"}),
    ),
)
