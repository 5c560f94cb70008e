"""One engine process: started in a session and group of its own, and waited for.

It is no child of our life: it has no parent-death signal and no pipe to us, so a
pool_managerd that is killed takes no engine with it, and the next one takes it back.

Its end is awaited through a pidfd, which becomes readable when the process has
ended, a zombie included; see pidfd_open(2).  asyncio's own subprocesses would end
what they started when they are closed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

import anyio
import anyio.to_thread

from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.replica_log import ReplicaLog


class ReplicaProcess:
    """The leader of a replica's process group, whose pid is also its group and session.

    Args:
        child: where it was started by us; the exit code of any other is lost to us.

    Raises:
        ProcessLookupError: there is no process of that pid.  One that is opened by
            its pid alone may be a stranger that was given it a moment ago: check
            its start time after this.
    """

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.exited = False
        self._child = child
        self._descriptor = os.pidfd_open(pid)

    async def wait(self) -> int | None:
        """The exit code once it has ended; -N where signal N ended it; None: not known."""
        if not self.exited:
            await anyio.wait_readable(self._descriptor)
            self.exited = True
        # It has ended, so that this reaps it and does not wait.
        return None if self._child is None else self._child.wait()

    def close(self) -> None:
        """Watch it no more; it may live on."""
        os.close(self._descriptor)


async def start(argv: Sequence[str], env: Mapping[str, str], log: ReplicaLog) -> ReplicaProcess:
    """Start `argv` with exactly `env`, its output appended to `log`.

    Raises:
        LaunchRefused: the program is not there or cannot be run.
    """
    descriptor = await anyio.to_thread.run_sync(log.open_for_launch)
    try:
        child = await anyio.to_thread.run_sync(_spawn, argv, env, descriptor)
    except FileNotFoundError as error:
        raise LaunchRefused(
            FailureReason.TOOL_MISSING, f"{argv[0]}: no such program; install it or name its path"
        ) from error
    except OSError as error:
        raise LaunchRefused(
            FailureReason.BAD_ARGUMENT, f"{argv[0]} cannot be started: {error.strerror}"
        ) from error
    finally:
        os.close(descriptor)
    return ReplicaProcess(child.pid, child)


def _spawn(argv: Sequence[str], env: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=dict(env),
        start_new_session=True,
    )
