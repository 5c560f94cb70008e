"""Whether a download may go to a URL: `policy.downloads`, as a decision and its sentence.

Asked for the first URL and again for each redirect.  What a name resolves to is
looked at where the connection is made (`contracts.service.address_guard`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from yarl import URL

from contracts.config import Downloads
from contracts.service.address_guard import literal

_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9])?")
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)")

DOWNLOADS_OFF = (
    "downloads are off: set policy.downloads.allow to true and list the host in"
    " policy.downloads.hosts, or put the file on this machine and use `file:/path`"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what a credential belongs to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: URL) -> Origin:
        """The origin of a URL."""
        return cls(url.scheme, (url.raw_host or "").lower(), url.port or 0)


class DownloadPolicy:
    """The rules of one configuration."""

    def __init__(self, downloads: Downloads) -> None:
        self._allow = downloads.allow
        self._rules = tuple(rule.lower() for rule in downloads.hosts)
        self._addresses = frozenset(
            address for address in map(literal, self._rules) if address is not None
        )

    def denial(self, url: URL) -> str | None:
        """Why nothing may be fetched from `url`, with the remedy; None where it may."""
        if not self._allow:
            return DOWNLOADS_OFF
        host = (url.raw_host or "").lower()
        if url.user is not None or url.password is not None:
            return f"the URL of {host} carries a user or a password"
        if not self.lists(host):
            return (
                f"the host {host or '(none)'} is not allowed; add it to policy.downloads.hosts"
                " if it is to be trusted"
            )
        return self._scheme_denial(url, host)

    def lists(self, host: str, *, exactly: bool = False) -> bool:
        """Whether a host is in `policy.downloads.hosts`; `exactly`: not by a `*.` rule."""
        address = literal(host)
        if address is not None:
            return address in self._addresses
        if not _NAME.fullmatch(host) or _NUMBER.fullmatch(host.rpartition(".")[2]):
            return False
        if exactly:
            return host in self._rules
        return any(
            host.endswith(rule[1:]) if rule.startswith("*.") else host == rule
            for rule in self._rules
        )

    def _scheme_denial(self, url: URL, host: str) -> str | None:
        if url.scheme == "https":
            return None
        address = literal(host)
        if url.scheme == "http" and address is not None and address.is_loopback:
            return None
        return f"{url.scheme}://{host} is not encrypted; only https: is fetched from there"
