"""Waiting for what a pool was asked to do, and saying how far it has come."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Self

import anyio
from rich.status import Status

from contracts.capabilities import PoolPage, PoolStatus
from contracts.pools import PoolChange, Preparation, ReloadState, ReloadView
from llama_orch.api import Api
from llama_orch.failures import Failed
from llama_orch.output import Output, gibibytes, printable

LOOK_EVERY_S = 0.25
SETTLE_S = 3.0
"""A change that was answered is to be seen in the pools by then."""
CUT_MARGIN_S = 30.0
"""What runs is over so long after it was cut."""
BAR = 20


async def wait_drained(api: Api, output: Output, change: PoolChange) -> None:
    """Until nothing of a pool runs.

    Raises:
        Failed: it was resumed meanwhile, or something runs on after the cut.
    """
    began, told = time.monotonic(), False
    left_s = None if change.cut_at_ms is None else change.cut_at_ms / 1000 - time.time()
    while True:
        pool = await _pool(api, change.pool_id)
        if not pool.draining:
            raise Failed(f"pool {change.pool_id} was resumed before it was drained")
        if not pool.running:
            return
        if not told:
            output.note(f"waiting for {pool.running} running task{'s' * (pool.running > 1)}")
            told = True
        if left_s is not None and time.monotonic() - began > max(0.0, left_s) + CUT_MARGIN_S:
            raise Failed(
                f"{pool.running} tasks of pool {change.pool_id} run on after their deadline;"
                f" see `llama-orch pools health {change.pool_id}`"
            )
        await anyio.sleep(LOOK_EVERY_S)


class Reloading:
    """One reload from before it is asked for to its end."""

    def __init__(
        self, api: Api, output: Output, pool_id: str, to_ref: str, before: ReloadView | None
    ) -> None:
        self._api = api
        self._output = output
        self._pool_id = pool_id
        self._to_ref = to_ref
        self._before = before

    @classmethod
    async def before(cls, api: Api, output: Output, pool_id: str, to_ref: str) -> Self:
        """To be made before it is asked for: an earlier reload is not taken for this one."""
        page = await api.get("/v1/pools", PoolPage)
        known = next((pool.reload for pool in page.items if pool.pool_id == pool_id), None)
        return cls(api, output, pool_id, to_ref, known)

    async def followed(self) -> PoolStatus:
        """The pool once the reload has ended, however; raises Failed where it never began."""
        began = time.monotonic()
        with _Progress(self._output) as progress:
            while True:
                pool = await _pool(self._api, self._pool_id)
                if self._has_ended(pool):
                    return pool
                if self._is_ours(pool.reload):
                    progress.show(_how_far(pool))
                elif time.monotonic() - began > SETTLE_S:
                    return self._settled(pool)
                await anyio.sleep(LOOK_EVERY_S)

    def _is_ours(self, reload: ReloadView | None) -> bool:
        """Another one than before, or one under way that the question joined."""
        if reload is None:
            return False
        return reload != self._before or reload.state is ReloadState.RUNNING

    def _has_ended(self, pool: PoolStatus) -> bool:
        reload = pool.reload
        return (
            reload is not None and self._is_ours(reload) and reload.state is not ReloadState.RUNNING
        )

    def _settled(self, pool: PoolStatus) -> PoolStatus:
        """Nothing had to be done where it serves that model already."""
        if pool.model_ref != self._to_ref:
            raise Failed(
                f"the reload of pool {self._pool_id} is not to be seen; look at"
                f" `llama-orch pools health {self._pool_id}`"
            )
        return pool.model_copy(update={"reload": None})


class _Progress:
    """One line: renewed beside a spinner on a terminal, elsewhere a line for each step."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._stack = ExitStack()
        self._spinner: Status | None = None
        self._step: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, step_and_bar: tuple[str, str]) -> None:
        step, bar = step_and_bar
        if not self._output.notes.is_terminal:
            if step != self._step:
                self._output.note(step)
        elif self._spinner is None:
            self._spinner = self._stack.enter_context(
                self._output.notes.status(printable(step + bar))
            )
        else:
            self._spinner.update(printable(step + bar))
        self._step = step


def _how_far(pool: PoolStatus) -> tuple[str, str]:
    """What the reload is at, and how far that has come."""
    coming = next((r.preparation for r in pool.replicas if r.preparation is not None), None)
    message = pool.reload.message if pool.reload is not None else ""
    if coming is None:
        return message, ""
    return f"{message} ({coming.phase.value} {coming.what})", _bar(coming)


def _bar(coming: Preparation) -> str:
    if coming.done is None or not coming.total:
        return ""
    share = min(1.0, coming.done / coming.total)
    full = round(BAR * share)
    of = ""
    if coming.total >= 2**20:
        of = f" {gibibytes(coming.done)} of {gibibytes(coming.total)} GiB"
    return f" {'█' * full}{'░' * (BAR - full)} {share:.0%}{of}"


async def _pool(api: Api, pool_id: str) -> PoolStatus:
    page = await api.get("/v1/pools", PoolPage)
    for pool in page.items:
        if pool.pool_id == pool_id:
            return pool
    raise Failed(f"pool {pool_id} is no longer configured")
