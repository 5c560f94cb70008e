"""One engine process: started in a session and group of its own, and waited for.

It is no child of our life: it has no parent-death signal and no pipe to us, so a
pool_managerd that is killed takes no engine with it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

import anyio
import anyio.abc
import anyio.to_thread

from contracts.pools import FailureReason
from pool_managerd.failure import LaunchRefused
from pool_managerd.replica_log import ReplicaLog


class ReplicaProcess:
    """A started process, the leader of its group."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id, which is also its group and its session."""
        return self._process.pid

    @property
    def exited(self) -> bool:
        """Whether the leader has ended; its group may live on."""
        return self._process.returncode is not None

    async def wait(self) -> int:
        """The exit code once the leader has ended; -N where signal N ended it."""
        return await self._process.wait()


async def start(argv: Sequence[str], env: Mapping[str, str], log: ReplicaLog) -> ReplicaProcess:
    """Start `argv` with exactly `env`, its output appended to `log`.

    Raises:
        LaunchRefused: the program is not there or cannot be run.
    """
    descriptor = await anyio.to_thread.run_sync(log.open_for_launch)
    try:
        process = await anyio.open_process(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=dict(env),
            start_new_session=True,
        )
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
    return ReplicaProcess(process)
