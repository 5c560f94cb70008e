"""Hold both daemons for as long as some work lasts, and stop them whatever ends it.

Four things end it: the work itself, a signal, a daemon that dies, an error.  In
each case the daemons are stopped in order, and only then is the ending told.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from llama_orch.daemons import Daemons
from llama_orch.failures import CommandFailure, ExitCode, Failed

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervision:
    """One life of both daemons.

    `on_stop` is told, in words, that stopping has begun.
    """

    def __init__(self, daemons: Daemons, on_stop: Callable[[str], None]) -> None:
        self._daemons = daemons
        self._on_stop = on_stop
        self._work = anyio.CancelScope()
        self._hurry = anyio.Event()
        self._failure: CommandFailure | None = None
        self._stopped_by: signal.Signals | None = None
        self._kept = False
        self._ending = False

    def keep(self) -> None:
        """Leave the daemons running when the work is done."""
        self._kept = True

    async def run(
        self,
        work: Callable[[str], Awaitable[None]],
        prepare: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
    ) -> signal.Signals | None:
        """`prepare`, start both, `work(url)`, stop both; the signal that ended it, if one did.

        Raises:
            CommandFailure: of the start, of the work, of a daemon that died, or of the stop.
        """
        async with anyio.create_task_group() as group:
            await group.start(self._take_signals)
            try:
                with self._work:
                    await prepare()
                    url = await self._daemons.start()
                    group.start_soon(self._watch)
                    await work(url)
            except CommandFailure as failure:
                self._failure = failure
            finally:
                await self._end()
                group.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        return self._stopped_by

    async def _end(self) -> None:
        self._ending = True
        if self._kept and self._failure is None and self._stopped_by is None:
            return
        # Shielded without a deadline of its own: `stop` bounds each of its steps.
        with anyio.CancelScope(shield=True):
            try:
                await self._daemons.stop(self._hurry)
            except Failed as failure:
                self._failure = self._failure or failure

    async def _watch(self) -> None:
        death = await self._daemons.first_death()
        if not self._ending:  # else it ends because we asked
            self._failure = death
            self._work.cancel()

    async def _take_signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*STOP_SIGNALS) as signals:
            task_status.started()
            async for received in signals:
                if self._stopped_by is not None:
                    self._hurry.set()
                    continue
                self._stopped_by = received
                self._on_stop("stopping: running tasks may finish; Ctrl-C again hastens")
                self._work.cancel()


def exit_code_of(received: signal.Signals | None) -> int:
    """0 where the work ended by itself; as a shell counts it where a signal did."""
    return ExitCode.OK if received is None else 128 + received
