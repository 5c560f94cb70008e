"""Addresses an outbound connection may not go to, in every disguise."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from contracts.service.address_guard import AddressRefused, GuardedResolver, closed, literal

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "0.0.0.0", "10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1"),
        *("169.254.169.254", "168.63.129.16", "198.18.0.1", "224.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "2001::1"),
        *("::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "::7f00:1"),
        *("2002:7f00:1::", "2002:a9fe:a9fe::1", "fec0::1", "3fff::1", "fe80::1%eth0"),
    ],
)
def test_an_address_that_is_not_public_is_closed(text: str) -> None:
    """LO-POOL-113."""
    assert closed(ip_address(text)) is not None


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::101:101"]
)
def test_a_public_address_is_open(text: str) -> None:
    assert closed(ip_address(text)) is None


def test_only_the_canonical_form_is_an_address() -> None:
    assert literal("[::1]") == ip_address("::1")
    for text in ("127.1", "0x7f000001", "2130706433", "0177.0.0.1", "localhost", "fe80::1%lo"):
        assert literal(text) is None


async def test_one_closed_address_among_many_refuses_the_host() -> None:
    """LO-POOL-113."""

    async def lookup(host: str, port: int) -> list[str]:
        return ["1.1.1.1", "127.0.0.1"]

    with pytest.raises(AddressRefused, match=r"h\.example resolves to 127\.0\.0\.1"):
        await GuardedResolver(lookup=lookup).resolve("h.example", 443)
    found = await GuardedResolver(["127.0.0.1"], lookup).resolve("h.example", 443)
    assert [result["host"] for result in found] == ["1.1.1.1", "127.0.0.1"]
    assert {result["hostname"] for result in found} == {"h.example"}


async def test_a_host_without_addresses_is_an_error() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return []

    with pytest.raises(OSError, match="no address"):
        await GuardedResolver(lookup=lookup).resolve("h.example", 443)
