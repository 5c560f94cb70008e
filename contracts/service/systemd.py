"""What systemd is told: that we serve, read the configuration again, live, and stop.

One datagram of `NAME=VALUE` lines a message to `$NOTIFY_SOCKET`; see sd_notify(3),
sd_watchdog_enabled(3) and `Type=notify-reload` in systemd.service(5).  Without a
service manager every call does nothing, and a message that cannot be sent is
logged and given up: systemd acts on what it misses, we do not.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable

import anyio
import structlog

from contracts.service.settings import ServiceManager

log = structlog.get_logger()

SEND_DEADLINE_S = 1.0
STATUS_CHARACTERS_MAX = 200


class SystemdNotifier:
    """One daemon's messages; a reload before `ready` or after `stopping` is not told."""

    def __init__(self, manager: ServiceManager) -> None:
        self._socket = manager.notify_socket
        self._serving = False
        self._watchdog_us = manager.watchdog_us
        if manager.watchdog_pid not in (None, os.getpid()):
            self._watchdog_us = None  # it is meant for another process of this service

    async def ready(self, status: str) -> None:
        """We answer."""
        self._serving = True
        await self._tell("READY=1", _status(status))

    async def stopping(self) -> None:
        """We take no more work, and end."""
        self._serving = False
        await self._tell("STOPPING=1", _status("stopping"))

    async def reload(self, read_again: Callable[[], Awaitable[str]]) -> None:
        """Call `read_again`, and tell what it returns: how the reload went."""
        if self._serving:
            # The clock of systemd: it tells an answer to this SIGHUP from an older one.
            await self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        status = await read_again()
        if self._serving:
            await self.ready(status)

    async def watch(self, alive: Callable[[], bool]) -> None:
        """Say that we live, twice in each watchdog time, while `alive` is true; for ever.

        Run it on the loop that does the work: one that stands still says nothing.
        """
        if self._socket is None or self._watchdog_us is None:
            return
        while True:
            if alive():
                await self._tell("WATCHDOG=1")
            else:
                log.error("daemon.not_alive", remedy="systemd restarts it; please report the log")
            await anyio.sleep(self._watchdog_us / 2_000_000)

    async def _tell(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            with (
                anyio.fail_after(SEND_DEADLINE_S),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
            ):
                sender.setblocking(False)
                sender.connect(_address(self._socket))
                await anyio.wait_writable(sender)
                sender.send("\n".join(lines).encode())
        except OSError as error:  # TimeoutError and a queue that is full are among them
            log.warning("daemon.notify_failed", message=lines[0], reason=str(error))


def _address(name: str) -> str:
    """A path as it is; of `@name` the abstract address."""
    return f"\0{name[1:]}" if name.startswith("@") else name


def _status(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return f"STATUS={line[:STATUS_CHARACTERS_MAX]}"
