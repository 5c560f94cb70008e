"""What Linux tells of processes and sockets, read from /proc.

Everything here reads files and may take milliseconds on a busy machine: call it
in a worker thread.  A process that vanishes while it is read counts as gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

PROC = Path("/proc")
GONE_STATES = frozenset("ZXx")
"""Zombies hold nothing but their pid: they count as gone."""
LISTENING = "0A"
REACHED_THROUGH_LOOPBACK = frozenset(
    {
        "0100007F",  # 127.0.0.1
        "00000000",  # 0.0.0.0
        "00000000000000000000000000000000",  # ::
        "00000000000000000000000001000000",  # ::1
        "0000000000000000FFFF00000100007F",  # ::ffff:127.0.0.1
    }
)


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The part of /proc/PID/stat that identifies a process; see proc(5)."""

    pid: int
    state: str
    group: int
    session: int
    start_ticks: int
    """Start, in clock ticks after boot: with the boot id it tells a pid from its reuse."""


class Listener(StrEnum):
    """Who listens on a port."""

    NOBODY = "nobody"
    OURS = "ours"
    OTHERS = "others"
    BOTH = "both"


def boot_id() -> str:
    """The id of this boot of the machine."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def available_memory() -> int:
    """Bytes that new programs can be given without swapping; see proc(5), MemAvailable."""
    for line in (PROC / "meminfo").read_text().split("\n"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def process_stat(pid: int) -> ProcessStat | None:
    """The process, or None when there is none of that pid; zombies are told by `state`."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The command may hold blanks and parentheses; the last one ends it.
    fields = text.rpartition(")")[2].split()
    return ProcessStat(pid, fields[0], int(fields[2]), int(fields[3]), int(fields[19]))


def environment_of(pid: int) -> dict[bytes, bytes]:
    """What a process was started with; empty where it is gone or somebody else's."""
    try:
        content = (PROC / str(pid) / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    pairs = (entry.partition(b"=") for entry in content.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def session_members(session: int) -> list[int]:
    """Pids of the living processes of a session, in whatever groups of it they are."""
    return [
        stat.pid
        for pid in _pids()
        if (stat := process_stat(pid)) is not None
        and stat.session == session
        and stat.state not in GONE_STATES
    ]


def listener_on(port: int, session: int) -> Listener:
    """Whether the sockets that take connections to 127.0.0.1:port belong to the session.

    Several may listen at once, because SO_REUSEPORT shares a port between
    processes of one user: `BOTH` means that some connections go to a stranger.
    """
    inodes = _listening_inodes(port)
    if not inodes:
        return Listener.NOBODY
    ours = inodes & _socket_inodes(session_members(session))
    if not ours:
        return Listener.OTHERS
    return Listener.OURS if ours == inodes else Listener.BOTH


def _pids() -> Iterator[int]:
    with os.scandir(PROC) as entries:
        for entry in entries:
            if entry.name.isdecimal():
                yield int(entry.name)


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().split("\n")[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) < 10 or fields[3] != LISTENING:
                continue
            address, _, number = fields[1].partition(":")
            if int(number, 16) == port and address in REACHED_THROUGH_LOOPBACK:
                inodes.add(fields[9])
    return inodes


def _socket_inodes(pids: list[int]) -> set[str]:
    inodes = set()
    for pid in pids:
        try:
            with os.scandir(PROC / str(pid) / "fd") as entries:
                for entry in entries:
                    target = _target(entry.path)
                    if target.startswith("socket:["):
                        inodes.add(target[len("socket:[") : -1])
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return inodes


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115 - not a path: `socket:[12345]`
    except OSError:
        return ""
