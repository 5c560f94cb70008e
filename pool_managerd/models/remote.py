"""One file on somebody else's server, as the protocols of the refs describe it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from yarl import URL

from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.models.download_policy import Origin

Sign = Callable[[str, URL, Mapping[str, str]], Mapping[str, str]]
"""Method, URL and headers of a request -> the headers that prove who asks."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves who asks, and the one origin it may be sent to."""

    origin: Origin
    sign: Sign = field(repr=False)

    @classmethod
    def bearer(cls, origin: Origin, token: str) -> Credentials:
        """A token in the Authorization header."""
        return cls(origin, lambda *_: {"Authorization": f"Bearer {token}"})


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to fetch.

    Attributes:
        name: how it is shown to people; never a file name of ours.
        digest: the sha256 its source says it has.
        size: the bytes its source says it has.
    """

    url: URL
    name: str
    digest: str | None = None
    size: int | None = None
    credentials: Credentials | None = None


def failed(message: str) -> LaunchRefused:
    """A download that may succeed another time."""
    return LaunchRefused(FailureReason.DOWNLOAD_FAILED, message)


def shown(url: URL) -> str:
    """A URL without its query, where signatures are."""
    return f"{url.scheme}://{url.host}{url.path}"[:300]
