"""Which addresses an outbound connection may go to, decided where it is made.

A name is resolved once, every address it has is looked at, and the connection goes
to one of those; the name stays in Host and in the TLS handshake.  A check that
resolves and a client that resolves again can be told two different things (DNS
rebinding).

The ranges are written out here: what the standard library calls private has
changed between versions (CVE-2021-29921, CVE-2024-4032).  They follow IANA's
special-purpose registries of IPv4 and IPv6 as of 2025.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import anyio
from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUP_DEADLINE_S = 10.0
ADDRESSES_MAX = 64

Address = IPv4Address | IPv6Address
Lookup = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, as text; raises OSError where it has none."""

_CLOSED_V4 = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "a private network"),
        ("100.64.0.0/10", "a carrier's network"),
        ("127.0.0.0/8", "this machine"),
        ("168.63.129.16/32", "a cloud's metadata"),
        ("169.254.0.0/16", "the link, or a cloud's metadata"),
        ("172.16.0.0/12", "a private network"),
        ("192.0.0.0/24", "protocols' own use"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "a relay"),
        ("192.168.0.0/16", "a private network"),
        ("198.18.0.0/15", "benchmarks"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "no use, or broadcast"),
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_CLOSED_V6 = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("2001::/23", "tunnels and protocols' own use"),
        ("2001:db8::/32", "documentation"),
        ("3fff::/20", "documentation"),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_6TO4 = IPv6Network("2002::/16")


class AddressRefused(OSError):
    """A host has an address that may not be connected to."""


def literal(host: str) -> Address | None:
    """The address that `host` is, in its one canonical form; None for a name."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return None
    return None if getattr(address, "scope_id", None) else address


def unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries inside, where it does."""
    if isinstance(address, IPv4Address):
        return address
    number = int(address)
    if address in _MAPPED or address in _NAT64 or address in _COMPATIBLE:
        return IPv4Address(number & 0xFFFFFFFF)
    if address in _6TO4:
        return IPv4Address((number >> 80) & 0xFFFFFFFF)
    return address


def closed(address: Address) -> str | None:
    """What an address that is not of the public internet is for; None for a public one."""
    if getattr(address, "scope_id", None):
        return "the link"
    inner = unmapped(address)
    if isinstance(inner, IPv4Address):
        return next((what for network, what in _CLOSED_V4 if inner in network), None)
    if inner not in _GLOBAL_V6:
        return "this machine or its network"
    return next((what for network, what in _CLOSED_V6 if inner in network), None)


async def system_lookup(host: str, port: int) -> list[str]:
    """As the machine's own resolver has it."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class GuardedResolver(AbstractResolver):
    """Gives a connector the addresses of a host once all of them were looked at.

    A connector does not ask for a host that is an address already: whoever makes
    the request looks at that one.

    Args:
        permitted: addresses that may be connected to although they are closed.
    """

    def __init__(self, permitted: Iterable[str] = (), lookup: Lookup = system_lookup) -> None:
        found = (literal(host) for host in permitted)
        self._permitted = frozenset(address for address in found if address is not None)
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`.

        Raises:
            AddressRefused: one of them may not be connected to.
            OSError: there are none, or no answer came in time.
        """
        try:
            with anyio.fail_after(LOOKUP_DEADLINE_S):
                texts = await self._lookup(host, port)
        except TimeoutError:
            raise OSError(f"{host} was not resolved within {LOOKUP_DEADLINE_S:g} s") from None
        except UnicodeError:
            raise OSError(f"{host} is no host name") from None
        addresses = [self._vetted(host, text) for text in dict.fromkeys(texts[:ADDRESSES_MAX])]
        wanted = [found for found in addresses if family in (socket.AF_UNSPEC, _family(found))]
        if not wanted:
            raise OSError(f"{host} has no address")
        return [_result(host, port, address) for address in wanted]

    async def close(self) -> None:
        """Nothing is held."""

    def _vetted(self, host: str, text: str) -> Address:
        try:
            address = ip_address(text)
        except ValueError:
            raise AddressRefused(f"{host} resolves to what is no address") from None
        what = closed(address)
        if what is not None and address not in self._permitted:
            raise AddressRefused(f"{host} resolves to {address}, an address of {what}")
        return address


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6


def _result(host: str, port: int, address: Address) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=str(address),
        port=port,
        family=_family(address),
        proto=0,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
