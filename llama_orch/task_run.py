"""Send a task and watch it to its end."""

from __future__ import annotations

import signal
from contextlib import aclosing

import anyio
from anyio.abc import TaskStatus

from contracts.errors import ErrorCode
from contracts.tasks import Admission, TaskRequest
from llama_orch.api import Api
from llama_orch.display import Display
from llama_orch.event_stream import Event, follow
from llama_orch.failures import CommandFailure, ExitCode, Failed, Refused, Unreachable

# Sending again is safe: the request carries the task's id.
SEND_TRIES = 3
BACKPRESSURE = frozenset({429, 503})
CANCEL_DEADLINE_S = 5.0


async def send(api: Api, request: TaskRequest, display: Display, wait_s: float = 0.0) -> Admission:
    """Post `request` until it is accepted, for `wait_s` seconds at most under backpressure.

    Raises:
        Refused: the server said no, or went on saying "later" past `wait_s`.
        Unreachable: no answer, after a few tries.
    """
    deadline = anyio.current_time() + wait_s
    lost = 0
    while True:
        try:
            return await api.post_for("/v1/tasks", request, Admission)
        except Unreachable:
            lost += 1
            if lost == SEND_TRIES:
                raise
            await anyio.sleep(0.2 * lost)
        except Refused as refusal:
            pause = (refusal.retry_after_ms or 1000) / 1000
            if refusal.status not in BACKPRESSURE or anyio.current_time() + pause > deadline:
                raise
            display.remark(f"{refusal.message}; waiting")
            await anyio.sleep(pause)


class Watch:
    """One task followed to its end; the first Ctrl-C cancels it, the second leaves."""

    def __init__(self, api: Api, task_id: str, display: Display) -> None:
        self._api = api
        self._task_id = task_id
        self._display = display
        self._admitted = False
        self._last: Event | None = None
        self._failure: CommandFailure | None = None

    async def submit(
        self, request: TaskRequest, wait_s: float = 0.0, *, cancel_on_interrupt: bool = True
    ) -> int:
        """Send `request`, follow it, return the exit code.

        Only one place in a process can receive a signal: with `cancel_on_interrupt`
        false, Ctrl-C is left to the caller.

        Raises:
            CommandFailure: it was not accepted, or the stream was lost.
        """
        async with anyio.create_task_group() as group:
            if cancel_on_interrupt:
                await group.start(self._cancel_on_interrupt, group.cancel_scope)
            try:
                admission = await send(self._api, request, self._display, wait_s)
                self._admitted = True
                self._display.admitted(admission)
                await self._show()
            except CommandFailure as failure:
                self._failure = failure
            group.cancel_scope.cancel()
        return self._ending()

    async def follow(self, after: int = 0) -> int:
        """Follow a task that somebody sent; Ctrl-C leaves it running."""
        try:
            await self._show(after)
        except CommandFailure as failure:
            self._failure = failure
        return self._ending()

    async def _show(self, after: int = 0) -> None:
        async with aclosing(
            follow(self._api, self._task_id, after, on_break=self._connection_broke)
        ) as events:
            async for event in events:
                self._last = event
                self._display.event(event)

    def _ending(self) -> int:
        self._display.close()
        if self._failure is not None:
            raise self._failure
        if self._last is None or not self._last.terminal:
            return ExitCode.INTERRUPTED
        if self._last.name == "end":
            return ExitCode.OK
        data = self._last.data
        raise TaskFailed(str(data.get("code")), str(data.get("message")), self._last.number)

    def _connection_broke(self, reason: str) -> None:
        self._display.remark(f"the stream broke ({reason}); connecting again")

    async def _cancel_on_interrupt(
        self, scope: anyio.CancelScope, *, task_status: TaskStatus[None]
    ) -> None:
        # The receiver stays open while the cancel is under way, so that a second
        # Ctrl-C is taken here and never becomes a KeyboardInterrupt in mid-air.
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            interrupts = 0
            async with anyio.create_task_group() as group:
                async for _ in signals:
                    interrupts += 1
                    if interrupts == 2:
                        scope.cancel()
                        return
                    self._display.remark("canceling; Ctrl-C again leaves without waiting")
                    group.start_soon(self._cancel, scope)

    async def _cancel(self, scope: anyio.CancelScope) -> None:
        """Cancel, then let the stream tell the end.

        Before the 202 there is no stream to wait for: the request may or may not
        have been accepted, so it is canceled by its id all the same, and we leave.
        """
        admitted = self._admitted
        try:
            with anyio.fail_after(CANCEL_DEADLINE_S):
                await self._api.post(f"/v1/tasks/{self._task_id}/cancel")
        except TimeoutError:
            self._display.remark(f"no answer to the cancel within {CANCEL_DEADLINE_S:.0f} s")
        except CommandFailure as failure:
            if admitted:
                self._display.remark(failure.message)
        if not admitted:
            scope.cancel()


class TaskFailed(Failed):
    """The task's stream ended in `error`."""

    def __init__(self, code: str, message: str, number: int) -> None:
        super().__init__(
            "the task was canceled" if code == ErrorCode.CANCELED else f"{code}: {message}"
        )
        self.word = code
        self.number = number
