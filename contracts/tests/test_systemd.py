"""What systemd hears: over real datagram sockets, by path and by abstract name."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from contracts.service.settings import (
    ConfigError,
    ServiceManager,
    child_environment,
    service_manager,
)
from contracts.service.systemd import STATUS_CHARACTERS_MAX, SystemdNotifier

WAIT_S = 10.0
pytestmark = pytest.mark.anyio


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """The receiving end, as systemd would hold it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"\0{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name)
        receiver.settimeout(WAIT_S)
        yield receiver


def where(systemd: socket.socket) -> str:
    name = systemd.getsockname()
    return f"@{name[1:].decode()}" if isinstance(name, bytes) else str(name)


def heard(systemd: socket.socket) -> list[str]:
    return systemd.recv(4096).decode().split("\n")


def silent(systemd: socket.socket) -> bool:
    systemd.setblocking(False)
    try:
        systemd.recv(4096)
    except BlockingIOError:
        return True
    return False


async def test_ready_reload_and_stop_are_told_in_order(systemd: socket.socket) -> None:
    """LO-SYS-070, LO-SYS-071."""
    notifier = SystemdNotifier(ServiceManager(where(systemd)))
    before_us = time.monotonic_ns() // 1000

    await notifier.ready("serving")
    assert heard(systemd) == ["READY=1", "STATUS=serving"]

    async def read_stamped() -> str:
        first, stamp = heard(systemd)
        assert first == "RELOADING=1"
        name, _, value = stamp.partition("=")
        assert name == "MONOTONIC_USEC"
        assert before_us <= int(value) <= time.monotonic_ns() // 1000
        return "read\nagain" + "x" * 1000

    await notifier.reload(read_stamped)
    ready, status = heard(systemd)
    assert ready == "READY=1"
    assert status.startswith("STATUS=read again")
    assert len(status) == len("STATUS=") + STATUS_CHARACTERS_MAX
    await notifier.stopping()
    assert heard(systemd) == ["STOPPING=1", "STATUS=stopping"]


async def test_a_reload_that_systemd_cannot_expect_is_not_told(systemd: socket.socket) -> None:
    """LO-SYS-071: READY before the listener answers would be a lie."""
    notifier = SystemdNotifier(ServiceManager(where(systemd)))
    ran: list[str] = []

    async def read_again() -> str:
        ran.append("read")
        return "read again"

    await notifier.reload(read_again)
    await notifier.stopping()
    await notifier.reload(read_again)
    assert ran == ["read", "read"]
    assert heard(systemd)[0] == "STOPPING=1"
    assert silent(systemd)


async def test_the_watchdog_hears_of_us_while_the_work_goes_on_only(
    systemd: socket.socket,
) -> None:
    """LO-SYS-072."""
    manager = ServiceManager(where(systemd), watchdog_us=20_000, watchdog_pid=os.getpid())
    looks = 0

    def alive() -> bool:
        nonlocal looks
        looks += 1
        if looks == 6:
            group.cancel_scope.cancel()
        return looks <= 2

    began = time.monotonic()
    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as group:
            group.start_soon(SystemdNotifier(manager).watch, alive)
    assert time.monotonic() - began >= 5 * 0.01, "twice in each watchdog time"
    assert [heard(systemd) for _ in range(2)] == [["WATCHDOG=1"]] * 2
    assert silent(systemd)


async def test_another_process_of_the_service_is_the_watched_one(systemd: socket.socket) -> None:
    """LO-SYS-072."""
    manager = ServiceManager(where(systemd), watchdog_us=20_000, watchdog_pid=os.getpid() + 1)
    with anyio.fail_after(WAIT_S):
        await SystemdNotifier(manager).watch(lambda: True)
    assert silent(systemd)


async def test_a_service_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    """LO-SYS-070."""
    notifier = SystemdNotifier(ServiceManager(str(tmp_path / "nobody")))
    await notifier.ready("serving")
    await SystemdNotifier(ServiceManager()).ready("serving")


def test_the_variables_are_read_and_not_handed_to_engines() -> None:
    """LO-SYS-073."""
    told = {"NOTIFY_SOCKET": "@up", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "17"}
    assert service_manager(told) == ServiceManager("@up", 30_000_000, 17)
    assert service_manager({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "0"}) == ServiceManager()
    assert child_environment(environ=told | {"PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NOTIFY_SOCKET", "vsock:2:1234"),
        ("NOTIFY_SOCKET", "@"),
        ("WATCHDOG_USEC", "soon"),
        ("WATCHDOG_USEC", "9" * 16),
        ("WATCHDOG_PID", "-1"),
    ],
)
def test_what_systemd_would_not_write_is_refused_by_name(name: str, text: str) -> None:
    """LO-SYS-073."""
    with pytest.raises(ConfigError, match=f"^{name}: .*unset it"):
        service_manager({name: text})
