"""Requests under the download policy: every hop is asked for, no secret changes its origin.

Redirects are followed here, not by the HTTP client, because each one is a new
decision: its host may not be allowed, and credentials stay with the origin they
belong to (CVE-2018-20060, CVE-2023-43804).  Proxies, cookies and `.netrc` are not
used, and nothing is decompressed.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import anyio
from yarl import URL

from contracts.config import Downloads
from contracts.pools import FailureReason
from contracts.service.address_guard import AddressRefused, GuardedResolver, Lookup, system_lookup
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.download_policy import DownloadPolicy, Origin
from pool_managerd.models.remote import Credentials, failed, shown

REDIRECTS_MAX = 5
CONNECT_TIMEOUT_S = 15.0
HEADER_BYTES_MAX = 16 * 1024
DOCUMENT_BYTES_MAX = 4 * 1024 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Interrupted(Exception):
    """A request that broke off and may be made again; says how."""


class GuardedClient:
    """Makes the requests of downloads."""

    def __init__(
        self,
        downloads: Downloads,
        *,
        lookup: Lookup = system_lookup,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.policy = DownloadPolicy(downloads)
        self.stall_s = downloads.stall_timeout_ms / 1000
        self._hosts = downloads.hosts
        self._lookup = lookup
        self._tls = tls

    @asynccontextmanager
    async def opened(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str] | None = None,
        credentials: Credentials | None = None,
        *,
        follow: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer at the end of all redirects, its body unread, its status unjudged.

        Without `follow` a redirect to another origin is the answer.

        Raises:
            LaunchRefused: the policy denies a hop, or there are too many.
            Interrupted: the connection did not come about, or broke.
        """
        async with self._session() as session:
            for _ in range(REDIRECTS_MAX + 1):
                response = await self._request(session, method, url, headers or {}, credentials)
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    break
                target = _joined(url, location)
                if Origin.of(target) != Origin.of(url):
                    if not follow:
                        break
                    credentials = None
                response.close()
                url = target
            else:
                raise failed(f"{shown(url)}: more than {REDIRECTS_MAX} redirects")
            try:
                yield response
            except (aiohttp.ClientError, ConnectionError) as error:
                raise Interrupted(_words(error)) from error
            finally:
                response.close()

    async def document(
        self, url: URL, headers: Mapping[str, str], credentials: Credentials | None
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """A small answer, whole, whatever its status; raises as `opened`."""
        async with self.opened("GET", url, headers, credentials) as response:
            body = bytearray()
            try:
                with anyio.fail_after(self.stall_s):
                    async for chunk in response.content.iter_any():
                        body += chunk
                        if len(body) > DOCUMENT_BYTES_MAX:
                            raise failed(f"{shown(url)}: larger than {DOCUMENT_BYTES_MAX} bytes")
            except TimeoutError:
                raise Interrupted("the answer did not end in time") from None
            return response, bytes(body)

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(self._hosts, self._lookup),
            use_dns_cache=False,
            ssl=self._tls if self._tls is not None else True,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
        )

    async def _request(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        credentials: Credentials | None,
    ) -> aiohttp.ClientResponse:
        denial = self.policy.denial(url)
        if denial is not None:
            raise LaunchRefused(FailureReason.DOWNLOAD_DENIED, denial)
        sent = {"Accept-Encoding": "identity", "User-Agent": "llama-orch", **headers}
        if credentials is not None and credentials.origin == Origin.of(url):
            sent |= credentials.sign(method, url, sent)
        try:
            with anyio.fail_after(CONNECT_TIMEOUT_S + self.stall_s):
                return await session.request(method, url, headers=sent, allow_redirects=False)
        except TimeoutError:
            raise Interrupted(f"{shown(url)}: no answer in time") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, AddressRefused):
                raise LaunchRefused(
                    FailureReason.DOWNLOAD_DENIED,
                    f"{error.os_error}; add that address to policy.downloads.hosts if it is to be"
                    " trusted",
                ) from error
            raise Interrupted(f"{shown(url)}: {_words(error)}") from error
        except (aiohttp.InvalidURL, ValueError) as error:
            raise failed(f"{shown(url)}: this is no URL to be asked") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Interrupted(f"{shown(url)}: {_words(error)}") from error


def judge(response: aiohttp.ClientResponse, name: str, *fine: int) -> None:
    """Return where the status is one of `fine`.

    Raises:
        Interrupted: it may be another one at the next try.
        LaunchRefused: it will not.
    """
    if response.status in fine:
        return
    host, status = response.url.host, response.status
    if status in _PASSING:
        raise Interrupted(f"{host} answered {status} for {name}")
    if status in (401, 403):
        raise failed(
            f"{host} answered {status} for {name}: it wants a login, or refuses this one; see"
            " hf_token_file, s3.access_key_file and oci.login_file of policy.downloads"
        )
    if status in (404, 410):
        raise failed(f"{host} answered {status}: there is no {name}; check the ref")
    raise failed(f"{host} answered {status} for {name}")


def _joined(url: URL, location: str) -> URL:
    try:
        return url.join(URL(location, encoded=True)).with_fragment(None)
    except ValueError:
        raise failed(f"{shown(url)}: it redirects to what is no URL") from None


def _words(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error.strerror or error.os_error}"
    return " ".join((str(error) or type(error).__name__).split())[:300]
