"""Work that keeps every slot of a pool busy while its seeds run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from itertools import count

import anyio

from contracts.ids import new_uuid
from contracts.tasks import Admission, Priority, TaskRequest
from llama_orch.api import Api
from llama_orch.event_stream import follow
from llama_orch.failures import CommandFailure, Failed, Refused
from llama_orch.task_run import BACKPRESSURE

AHEAD = 2
"""Tasks for each slot: one runs, one waits to take its place."""
LOAD_TOKENS = 32
BUSY_DEADLINE_S = 120.0
CANCEL_DEADLINE_S = 10.0


class Load:
    """Batch tasks without end, of prompts that partly share the proven one's beginning."""

    def __init__(self, api: Api, pool_id: str, prompt: str, slots: int) -> None:
        self._api = api
        self._pool_id = pool_id
        self._prompt = prompt
        self._slots = slots
        self._numbers = count()
        self._open: set[str] = set()
        self._busy = anyio.Event()
        self.started = 0
        """Tasks that began to run."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Load the pool during the block, which begins once a task ran for each slot.

        Raises:
            Failed: that did not come about.
        """
        async with anyio.create_task_group() as group:
            for _ in range(AHEAD * self._slots):
                group.start_soon(self._one_after_another)
            try:
                with anyio.fail_after(BUSY_DEADLINE_S):
                    await self._busy.wait()
            except TimeoutError:
                raise Failed(f"pool {self._pool_id} cannot be brought under load") from None
            yield
            group.cancel_scope.cancel()
        await self._cancel_what_is_open()

    async def _one_after_another(self) -> None:
        while True:
            request = self._request(next(self._numbers))
            task_id = str(request.task_id)
            try:
                await self._api.post_for("/v1/tasks", request, Admission)
            except Refused as refusal:
                if refusal.status not in BACKPRESSURE:
                    raise
                await anyio.sleep((refusal.retry_after_ms or 200) / 1000)
                continue
            self._open.add(task_id)
            await self._follow(task_id)
            self._open.discard(task_id)

    async def _follow(self, task_id: str) -> None:
        async with aclosing(follow(self._api, task_id)) as events:
            async for event in events:
                if event.name == "started":
                    self.started += 1
                    if self.started >= self._slots:
                        self._busy.set()

    def _request(self, number: int) -> TaskRequest:
        prompt = f"{self._prompt} {number}" if number % 2 else f"{number} {self._prompt}"
        return TaskRequest(
            task_id=new_uuid(),
            pool_id=self._pool_id,
            priority=Priority.BATCH,
            prompt=prompt,
            max_tokens=LOAD_TOKENS,
            seed=number,
        )

    async def _cancel_what_is_open(self) -> None:
        with anyio.move_on_after(CANCEL_DEADLINE_S):
            for task_id in self._open:
                with suppress(CommandFailure):  # it may have ended by itself
                    await self._api.post(f"/v1/tasks/{task_id}/cancel")
