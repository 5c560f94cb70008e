"""One watch over the logs of all engines, so that none fills the disk.

An engine can write a gigabyte a second, so its log has to be looked at often.  A hop
to a worker thread for each look would cost an idle machine more than all else, so one
thread looks at all of them, the sooner again the faster any of them grows.
"""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import structlog

from pool_managerd.replica_log import ReplicaLog

LOOK_S = (0.01, 0.1)
"""Between two looks: while a log grows, and while none does."""
QUIET_BYTES = 64 * 1024

_log = structlog.get_logger(__name__)


class LogKeeper:
    """Keeps every log bounded that was added and not removed."""

    def __init__(self) -> None:
        self._logs: set[ReplicaLog] = set()
        self._sizes: dict[ReplicaLog, int] = {}
        self._complained: set[ReplicaLog] = set()

    def add(self, log: ReplicaLog) -> None:
        """Keep this one; adding it twice is adding it once."""
        self._logs.add(log)

    def remove(self, log: ReplicaLog) -> None:
        """Nobody writes to it any more."""
        self._logs.discard(log)

    async def run(self) -> None:
        """Keep them for ever."""
        halt = threading.Event()
        try:
            await anyio.to_thread.run_sync(
                self._keep, halt, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
        finally:
            halt.set()

    def _keep(self, halt: threading.Event) -> None:
        soonest_s, latest_s = LOOK_S
        pause_s = soonest_s
        while not halt.wait(pause_s):
            # A tuple made of a set in one step: the loop's thread may add to it.
            grows = self._bound(tuple(self._logs))
            pause_s = soonest_s if grows else min(latest_s, pause_s * 2)

    def _bound(self, logs: tuple[ReplicaLog, ...]) -> bool:
        """Bound each; whether one of them grows fast."""
        sizes: dict[ReplicaLog, int] = {}
        grows = False
        for log in logs:
            try:
                size = sizes[log] = log.bound()
            except OSError as error:
                self._complain(log, error)
                continue
            self._complained.discard(log)
            before = self._sizes.get(log, 0)
            grows = grows or size < before or size > before + QUIET_BYTES
        self._sizes = sizes
        return grows

    def _complain(self, log: ReplicaLog, error: OSError) -> None:
        """Once per trouble, not twenty times a second."""
        if log not in self._complained:
            _log.warning("replica.log_unbounded", file=str(log.path), message=str(error))
        self._complained.add(log)
