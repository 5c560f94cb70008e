"""Which names a request may call us by.

A page in the user's browser can point a name of its own at 127.0.0.1 and so reach
a loopback port (DNS rebinding); its requests then carry that name as Host and
Origin.  Both must be names that were given to this daemon.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from contracts.errors import ErrorCode, Refusal
from contracts.service.settings import is_loopback

_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  (compared, not bound)


class AllowedHosts:
    """Loopback names and addresses, the bound host, and `auth.allowed_hosts`."""

    def __init__(self, bound: str, allowed: Iterable[str]) -> None:
        names = {bound, *allowed} - _WILDCARDS
        self._names = frozenset(name.strip("[]").lower() for name in names)

    def check(self, headers: Headers) -> None:
        """Return where Host, and Origin if there is one, are ours.

        Raises:
            Refusal: INVALID_PARAMS without exactly one Host, else FORBIDDEN.
        """
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            raise Refusal(ErrorCode.INVALID_PARAMS, "Send exactly one Host header.")
        if not self._allows(hosts[0]):
            raise Refusal(
                ErrorCode.FORBIDDEN, "This Host is not served here; see auth.allowed_hosts."
            )
        for origin in headers.getlist("origin"):
            if not self._allows_origin(origin):
                raise Refusal(
                    ErrorCode.FORBIDDEN, "This Origin may not call; see auth.allowed_hosts."
                )

    def _allows(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        return name in self._names or is_loopback(name)

    def _allows_origin(self, origin: str) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in {"http", "https"} and self._allows(parts.netloc)
