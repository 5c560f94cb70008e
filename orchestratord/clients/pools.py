"""The client of pool_managerd: leases, changes of pools, and the watch on its snapshots.

pool_managerd may die and come back elsewhere at any time, so its address is
read from the run file again at each connect and never kept longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import aiohttp
import anyio
from pydantic import ValidationError

from contracts.errors import ErrorCode, ErrorEnvelope, Refusal
from contracts.ids import new_uuid
from contracts.model import MILLISECONDS_MAX, Contract
from contracts.pools import (
    DrainRequest,
    Endpoint,
    Lease,
    LeaseRenewal,
    LeaseRequest,
    PoolChange,
    ReloadRequest,
    Snapshot,
)
from contracts.service.run_files import RunFile
from contracts.service.settings import Secret
from worker_adapters.sse import EventParser

C = TypeVar("C", bound=Contract)

CALL_DEADLINE_S = 5.0
WATCH_SILENCE_S = 30.0
"""pool_managerd sends a comment more often than this; silence means it is gone."""
RECONNECT_BASE_S = 0.05
RECONNECT_CAP_S = 2.0
LEASE_TTL_MS = 30_000
SNAPSHOT_BYTES_MAX = 8_388_608
ANSWER_BYTES_MAX = 65_536
_BETWEEN_DAEMONS = frozenset({ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN})
"""What is wrong between the two daemons is no fault of the client that asked."""


class PoolManagerAway(Exception):
    """pool_managerd cannot be reached or answered nonsense."""


class LeaseRefused(Exception):
    """The replica has no free slot, is not ready, or knows a newer attempt.

    `not_ready` says that the replica serves no slot now, or is not known yet,
    and that nobody else has the one that was asked for.
    """

    def __init__(self, message: str, *, not_ready: bool = False) -> None:
        super().__init__(message)
        self.not_ready = not_ready


class PoolsClient:
    """Calls to pool_managerd, as the holder of this start's leases."""

    def __init__(self, state_dir: Path, token: Secret, session: aiohttp.ClientSession) -> None:
        self.holder = new_uuid()
        self._state_dir = state_dir
        self._session = session
        self._headers = {"Authorization": f"Bearer {token.reveal()}"}
        self._url: str | None = None

    async def snapshots(self) -> AsyncGenerator[Snapshot | None, None]:
        """Every snapshot for ever; None each time the connection is lost or refused."""
        delay = RECONNECT_BASE_S
        while True:
            try:
                async with aclosing(self._watch()) as watch:
                    async for snapshot in watch:
                        delay = RECONNECT_BASE_S
                        yield snapshot
            except PoolManagerAway:
                yield None
            await anyio.sleep(delay)
            delay = min(2 * delay, RECONNECT_CAP_S)

    async def acquire(
        self,
        replica_id: str,
        task_id: str,
        epoch: int,
        correlation_id: str,
        preferred_slot: int | None = None,
    ) -> Lease:
        """A slot of a replica, the preferred one if it is free.

        Raises `LeaseRefused` or `PoolManagerAway`.

        A cancellation waits for the answer, which has a deadline: a request
        torn off may have been granted, and a lease that nobody knows blocks its
        slot until its TTL.
        """
        wanted = LeaseRequest(
            replica_id=replica_id,
            task_id=task_id,
            epoch=epoch,
            ttl_ms=LEASE_TTL_MS,
            holder=self.holder,
            preferred_slot=preferred_slot,
        )
        with anyio.CancelScope(shield=True):
            status, answer = await self._call("POST", "/v1/leases", _bytes(wanted), correlation_id)
        if status != 201:
            raise LeaseRefused(f"{replica_id}: lease answered {status}")
        return _read(answer, Lease)

    async def renew(
        self,
        lease: Lease,
        replica_id: str,
        task_id: str,
        epoch: int,
        idle_ms: int | None = None,
    ) -> None:
        """Keep a lease for another TTL; raises `LeaseRefused` or `PoolManagerAway`.

        `idle_ms` is how long the attempt has shown no progress; None tells nothing of it.
        """
        wanted = LeaseRenewal(
            replica_id=replica_id,
            task_id=task_id,
            epoch=epoch,
            ttl_ms=LEASE_TTL_MS,
            holder=self.holder,
            preferred_slot=lease.slot,
            idle_ms=None if idle_ms is None else min(idle_ms, MILLISECONDS_MAX),
        )
        path = f"/v1/leases/{lease.lease_id}"
        status, answer = await self._call("PUT", path, _bytes(wanted), new_uuid())
        if status >= 300:
            raise LeaseRefused(
                f"{replica_id}: renewal answered {status}", not_ready=_says_not_ready(answer)
            )

    async def release(self, lease: Lease, correlation_id: str, *, stalled: bool = False) -> None:
        """Give a slot back; raises `PoolManagerAway`, and then its TTL frees it.

        Args:
            stalled: the engine sent nothing for too long; it has to prove itself
                before it is given new work.
        """
        path = f"/v1/leases/{lease.lease_id}{'?stalled=true' if stalled else ''}"
        await self._call("DELETE", path, None, correlation_id)

    async def endpoint(self, replica_id: str) -> Endpoint:
        """Where a replica serves and the key it takes; raises `PoolManagerAway`.

        For questions that take no slot.  LeaseRefused: it serves nowhere now.
        """
        path = f"/v1/replicas/{replica_id}/endpoint"
        status, answer = await self._call("GET", path, None, new_uuid())
        if status != 200:
            raise LeaseRefused(f"{replica_id}: endpoint answered {status}")
        return _read(answer, Endpoint)

    async def drain(self, pool_id: str, wanted: DrainRequest, correlation_id: str) -> PoolChange:
        """Let a pool take no new lease; asked twice it is the same drain.

        Raises:
            Refusal: pool_managerd's own.
            PoolManagerAway: nobody answered; whether it was begun is not known.
        """
        return await self._change(pool_id, "drain", wanted, correlation_id)

    async def reload(self, pool_id: str, wanted: ReloadRequest, correlation_id: str) -> PoolChange:
        """Serve another model; the same asked twice is the same reload.  Raises as `drain`."""
        return await self._change(pool_id, "reload", wanted, correlation_id)

    async def resume(self, pool_id: str, correlation_id: str) -> PoolChange:
        """Take leases again.  Raises as `drain`."""
        return await self._change(pool_id, "resume", None, correlation_id)

    async def _change(
        self, pool_id: str, change: str, wanted: Contract | None, correlation_id: str
    ) -> PoolChange:
        path = f"/v1/pools/{pool_id}/{change}"
        body = None if wanted is None else _bytes(wanted)
        status, answer = await self._call("POST", path, body, correlation_id)
        if status == 202:
            return _read(answer, PoolChange)
        envelope = _read(answer, ErrorEnvelope)
        if envelope.code in _BETWEEN_DAEMONS:
            raise PoolManagerAway(f"it refused the token of orchestratord ({status})")
        raise Refusal(
            envelope.code,
            envelope.message,
            retry_after_ms=envelope.retry_after_ms,
            engine=envelope.engine,
            pool_id=envelope.pool_id or pool_id,
            details=envelope.details,
        )

    async def _call(
        self, method: str, path: str, body: bytes | None, correlation_id: str
    ) -> tuple[int, bytes]:
        headers = self._headers | {"X-Correlation-Id": correlation_id}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            with anyio.fail_after(CALL_DEADLINE_S):
                async with self._session.request(
                    method,
                    f"{self._address()}{path}",
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                ) as response:
                    return response.status, await _whole(response.content)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._url = None
            raise PoolManagerAway(f"{method} {path}: {error or 'timed out'}") from error

    async def _watch(self) -> AsyncGenerator[Snapshot, None]:
        self._url = None
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=WATCH_SILENCE_S)
        try:
            async with self._session.get(
                f"{self._address()}/v1/watch",
                headers=self._headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise PoolManagerAway(f"GET /v1/watch answered {response.status}")
                parser = EventParser(SNAPSHOT_BYTES_MAX)
                async for chunk in response.content.iter_any():
                    for data in parser.feed(chunk):
                        yield Snapshot.model_validate_json(data)
                raise PoolManagerAway("GET /v1/watch ended")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise PoolManagerAway(f"GET /v1/watch: {error or 'timed out'}") from error

    def _address(self) -> str:
        if self._url is None:
            run = RunFile.read(self._state_dir, "pool_managerd")
            if run is None:
                raise PoolManagerAway("pool_managerd has no run file; is it started?")
            self._url = run.url
        return self._url


def _bytes(body: Contract) -> bytes:
    return body.model_dump_json().encode()


def _says_not_ready(answer: bytes) -> bool:
    """Whether a refusal says that the replica does not serve, and not that it serves another."""
    try:
        envelope = ErrorEnvelope.model_validate_json(answer)
    except ValidationError:
        return False
    reason = (envelope.details or {}).get("reason")
    return envelope.code is ErrorCode.NOT_FOUND or reason == "not_ready"


def _read(answer: bytes, model: type[C]) -> C:
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        raise PoolManagerAway(
            f"a {model.__name__} that cannot be read: {error.error_count()} errors"
        ) from error


async def _whole(body: aiohttp.StreamReader) -> bytes:
    """All of an answer: `read` alone gives what has come so far."""
    answer = bytearray()
    async for chunk in body.iter_any():
        answer += chunk
        if len(answer) > ANSWER_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return bytes(answer)


def new_session() -> aiohttp.ClientSession:
    """A session for calls between the daemons: no proxy, no cookies."""
    return aiohttp.ClientSession(
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=64, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None),
        loop=asyncio.get_running_loop(),
    )
