"""Ending a process group, and knowing that it has ended.

Engines fork helpers that outlive them and hold memory, so it is always the
group that is signaled and the group that must be empty.  Only groups we created
are named here, never the children of a process: those may be anybody's.

The number of a group cannot be given to another one while it has members: the
kernel keeps a pid in use as long as a process group or session bears it.  So a
group that was ours and is not empty is still ours, even when its leader is long
gone.
"""

from __future__ import annotations

import os
import signal

import anyio
import anyio.to_thread
import structlog

from contracts.service.settings import child_environment, tool_environment
from pool_managerd.procfs import group_members

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
    """TERM, `grace_ms`, KILL; returns once the group is empty.

    Takes at most the grace and `KILL_WAIT_S`.  A grace of 0 kills at once.

    Raises:
        GroupSurvives: it is not empty `KILL_WAIT_S` after SIGKILL.
    """
    if grace_ms > 0:
        _signal(group, signal.SIGTERM)
        if not await _members_left(group, grace_ms / 1000):
            return
    _signal(group, signal.SIGKILL)
    if left := await _members_left(group, KILL_WAIT_S):
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


async def _members_left(group: int, wait_s: float) -> list[int]:
    """Who is left in the group once it is empty or `wait_s` has passed."""
    members = await anyio.to_thread.run_sync(group_members, group)
    pause = POLL_S
    with anyio.move_on_after(wait_s):
        while members:
            await anyio.sleep(pause)
            pause = min(pause * 1.5, POLL_SLOW_S)
            members = await anyio.to_thread.run_sync(group_members, group)
    return members


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
    except PermissionError:
        # Some member changed its user; the others got the signal, and whether
        # the group empties is looked at anyway.
        return
