"""Both daemons under something that listens as systemd does."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from pool_managerd.tests.test_daemon import fake_pool, ready, snapshot
from test_harness.stack import DaemonName, Stack, wait_for

pytestmark = pytest.mark.slow
WAIT_S = 30.0


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that the daemons are told of, with a watchdog of 0.2 s."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(WAIT_S)
        yield receiver


def until(systemd: socket.socket, wanted: str) -> list[str]:
    """The message that begins with `wanted`; only those of the watchdog may come before."""
    while True:
        message = systemd.recv(4096).decode().split("\n")
        if message[0] == wanted:
            return message
        assert message == ["WATCHDOG=1"], f"before {wanted}"


@pytest.mark.parametrize("name", ["orchestratord", "pool_managerd"])
def test_a_daemon_tells_of_its_life(
    systemd: socket.socket, tmp_path: Path, name: DaemonName
) -> None:
    """LO-SYS-070, LO-SYS-071, LO-SYS-072."""
    stack = Stack(tmp_path, [])
    daemon = stack.start(name)
    try:
        _, status = until(systemd, "READY=1")
        url = status.removeprefix("STATUS=serving at ")
        assert url == daemon.url
        assert httpx2.get(f"{url}/healthz").status_code == 200
        for _ in range(3):
            until(systemd, "WATCHDOG=1")
        daemon.process.send_signal(signal.SIGHUP)
        assert until(systemd, "RELOADING=1")[1].startswith("MONOTONIC_USEC=")
        assert "read again" in until(systemd, "READY=1")[1]
        stack.config_path.write_text("no: such key")
        daemon.process.send_signal(signal.SIGHUP)
        until(systemd, "RELOADING=1")
        assert "by the old configuration" in until(systemd, "READY=1")[1]
        daemon.process.send_signal(signal.SIGTERM)
        until(systemd, "STOPPING=1")
        assert daemon.stop() == 0
    finally:
        stack.stop()


def test_an_engine_is_told_nothing_of_systemd(systemd: socket.socket, tmp_path: Path) -> None:
    """LO-SYS-073."""
    stack = Stack(tmp_path, [fake_pool(tmp_path)])
    try:
        stack.start("pool_managerd").wait_ready()
        until(systemd, "READY=1")
        wait_for(lambda: ready(stack), "the stand-in serves")
        pid = snapshot(stack).pools[0].replicas[0].pid
        names = {
            line.partition(b"=")[0]
            for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        }
        assert not names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"WATCHDOG_PID"}
    finally:
        stack.stop()
