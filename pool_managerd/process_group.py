"""Ending a process group with its whole session, and knowing that it has ended.

Engines fork helpers that outlive them and hold memory, some in groups of their own,
as TGI's router and shards are, and the jobs of a build.  So it is always the session
that is signaled and the session that must be empty.  Only groups we created, which
all lead a session, are named here, never the children of a process: those may be
anybody's.

The number of a session cannot be given to another one while it has members: the
kernel keeps a pid in use as long as a process group or session bears it.  So a
session that was ours and is not empty is still ours, even when its leader is long
gone.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import anyio
import anyio.to_thread
import structlog

from contracts.service.settings import child_environment, tool_environment
from pool_managerd.procfs import process_stat, session_members

POLL_S = 0.02
POLL_SLOW_S = 0.1
KILL_WAIT_S = 1.5
"""How long a group may take to vanish after SIGKILL; more means the kernel holds it."""

END_COMMAND_S = 10.0

_log = structlog.get_logger(__name__)


class GroupSurvives(Exception):
    """Processes outlived SIGKILL: they wait in the kernel, as on a lost GPU."""

    def __init__(self, group: int, pids: list[int]) -> None:
        super().__init__(
            f"processes {pids} of group {group} survive SIGKILL; they hang in the kernel"
            " (a lost GPU or a dead file server), and only that or a reboot frees them"
        )


async def end_group(group: int, grace_ms: int) -> None:
    """TERM, `grace_ms`, KILL; returns once the session that the group leads is empty.

    Takes at most the grace and `KILL_WAIT_S`.  A grace of 0 kills at once.

    Raises:
        GroupSurvives: it is not empty `KILL_WAIT_S` after SIGKILL.
    """
    if grace_ms > 0:
        await anyio.to_thread.run_sync(_signal, group, signal.SIGTERM)
        if not await _members_left(group, grace_ms / 1000):
            return
    if left := await _members_left(group, KILL_WAIT_S, kill=True):
        raise GroupSurvives(group, left)


async def run_end(argv: tuple[str, ...]) -> None:
    """Run what ends the part of a launch that is no process of ours, such as a container.

    Bounded by `END_COMMAND_S`; what it says goes to the log where it fails, as it does
    where that part has ended by itself.
    """
    if not argv:
        return
    with anyio.move_on_after(END_COMMAND_S) as deadline:
        try:
            env = child_environment(tool_environment())
            done = await anyio.run_process(list(argv), check=False, env=env)
        except OSError as error:
            _log.warning("end_command.failed", program=argv[0], message=str(error))
            return
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace")[-500:]
            _log.info("end_command.ended", program=argv[0], code=done.returncode, message=said)
    if deadline.cancelled_caught:
        _log.warning("end_command.overran", program=argv[0], seconds=END_COMMAND_S)


async def _members_left(group: int, wait_s: float, *, kill: bool = False) -> list[int]:
    """Who is left in the session once it is empty or `wait_s` has passed.

    What is to be killed may go on to fork into groups that no signal has met, so
    each look is a signal too.
    """
    if kill:
        await anyio.to_thread.run_sync(_signal, group, signal.SIGKILL)
    members = await anyio.to_thread.run_sync(session_members, group)
    pause = POLL_S
    with anyio.move_on_after(wait_s):
        while members:
            await anyio.sleep(pause)
            pause = min(pause * 1.5, POLL_SLOW_S)
            if kill:
                await anyio.to_thread.run_sync(_signal, group, signal.SIGKILL)
            members = await anyio.to_thread.run_sync(session_members, group)
    return members


def _signal(group: int, number: signal.Signals) -> None:
    """To the group at once, then to each process of its session that is in another one."""
    with suppress(ProcessLookupError, PermissionError):
        # Some member may have changed its user; the others get the signal, and whether
        # the session empties is looked at anyway.
        os.killpg(group, number)
    for pid in session_members(group):
        with suppress(ProcessLookupError, PermissionError):
            _signal_other(group, pid, number)


def _signal_other(group: int, pid: int, number: signal.Signals) -> None:
    """A pid may be a stranger's by now, so that one is held while it is looked at."""
    descriptor = os.pidfd_open(pid)
    try:
        stat = process_stat(pid)
        if stat is not None and stat.session == group != stat.group:
            signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)
