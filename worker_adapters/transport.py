"""One HTTP client for every engine: bounded, proxy-free, and honest about what broke.

aiohttp costs a quarter of what httpx does per streamed event (8 against 40 µs
of CPU), which is why the token path uses it.  What leaves this module is bytes
or an `EngineError`; no aiohttp exception passes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Self

import aiohttp

from worker_adapters.errors import (
    EngineError,
    EngineLost,
    EngineProtocolError,
    EngineUnreachable,
)

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
ANSWER_BYTES = 8 * 1024 * 1024
READ_BUFFER_BYTES = 64 * 1024
JSON = "application/json"
"""What every body sent is; vLLM and TGI refuse a request that says something else."""

# The first class that fits decides, so the special come before the general.
_MEANING: tuple[tuple[type[BaseException], type[EngineError]], ...] = (
    (aiohttp.ClientConnectorError, EngineUnreachable),
    (aiohttp.ConnectionTimeoutError, EngineUnreachable),
    (aiohttp.InvalidURL, EngineUnreachable),
    (aiohttp.NonHttpUrlClientError, EngineUnreachable),
    (aiohttp.ServerFingerprintMismatch, EngineUnreachable),
    (aiohttp.ClientResponseError, EngineProtocolError),
    (aiohttp.RedirectClientError, EngineProtocolError),
    (aiohttp.ClientPayloadError, EngineLost),
    (aiohttp.ClientConnectionError, EngineLost),
    (aiohttp.ClientError, EngineLost),
    (OSError, EngineLost),
    (TimeoutError, EngineLost),
)


def engine_error(error: BaseException, url: str) -> EngineError:
    """The one translation of what the HTTP client raises."""
    for foreign, ours in _MEANING:
        if isinstance(error, foreign):
            return ours(f"{url}: {_describe(error)}")
    return EngineProtocolError(f"{url}: {_describe(error)}")


def _describe(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return f"cannot connect: {os.strerror(cause.errno) if cause.errno else cause}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error) or type(error).__name__
    return " ".join(text.split())


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise `EngineError` for whatever the HTTP client raises inside."""
    try:
        yield
    except (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError) as error:
        raise engine_error(error, url) from error


@dataclass(frozen=True)
class Target:
    """One engine's address, and the key it was launched with."""

    base_url: str
    api_key: str | None = field(repr=False)

    def headers(self, correlation_id: str | None = None) -> dict[str, str]:
        """What every request to it carries."""
        headers = {"Accept-Encoding": "identity"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        if correlation_id is not None:
            headers["X-Correlation-Id"] = correlation_id
        return headers


@dataclass(frozen=True)
class Answer:
    """A whole answer that fits in memory."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class EngineTransport:
    """Owns the one client session; every engine client of a daemon shares it.

    A connection serves one request.  Engines give each kept-alive connection a
    thread of a small pool, and an idle one that the engine closes just as a
    request goes out would be a request of unknown fate.

    Args:
        connections: open at once, over all engines; more wait up to the connect timeout.
    """

    def __init__(self, *, connections: int = 2048) -> None:
        self._connections = connections
        self._open_session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._open_session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_BUFFER_BYTES,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._open_session is not None:
            await self._open_session.close()
            self._open_session = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._open_session is None:
            raise RuntimeError("EngineTransport is used outside its `async with`")
        return self._open_session

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """Send and read a whole answer of at most `ANSWER_BYTES`, of any status.

        Raises:
            EngineUnreachable: no connection.
            EngineLost: it broke, or `timeout_s` passed.
            EngineProtocolError: not HTTP, or too long.
        """
        with translated(url):
            async with asyncio.timeout(timeout_s):
                async with self._request(method, url, headers, body) as response:
                    return Answer(
                        response.status, response.headers, await read_bounded(response, url)
                    )

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer once its headers are here; leaving closes the connection.

        The wait for the headers has no deadline here: an engine sends them with
        the first token, so the caller's first-token deadline covers them.
        """
        with translated(url):
            async with self._request(method, url, headers, body) as response:
                yield response

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if body is not None:
            headers = {**headers, "Content-Type": JSON}
        response = await self._session.request(
            method, url, headers=headers, data=body, allow_redirects=False
        )
        try:
            yield response
        finally:
            # Not `release`, which would read on to keep the connection: closing is how an
            # engine learns that nobody listens any more.
            response.close()


async def read_bounded(response: aiohttp.ClientResponse, url: str) -> bytes:
    """The whole body, at most `ANSWER_BYTES` of it.

    Raises:
        EngineProtocolError: it is longer.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES:
            raise EngineProtocolError(f"{url}: an answer of more than {ANSWER_BYTES} bytes")
    return bytes(body)
