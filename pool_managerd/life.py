"""One life of a replica: from its launch to the failure that ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio

from contracts.pools import FailureReason
from pool_managerd.failure import Failure
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineLost,
    EngineProtocolError,
    EngineUnreachable,
)

Served = Callable[[], Awaitable[None]]
"""Said once by a life, when its replica has begun to serve."""


class Life(Protocol):
    """How a kind of replica comes to serve, and how it is ended."""

    @property
    def adopts(self) -> bool:
        """Whether the next life is that of a process found alive, and not a launch."""
        ...

    async def live(self, served: Served) -> Failure:
        """Bring the replica to serve and watch it; returns why it does not any more.

        May be cancelled at any point; whatever was started is then for `end`.
        """
        ...

    async def mended(self) -> None:
        """Return once what the newest life failed of may be gone; never, where nobody can tell."""
        ...

    async def end(self, memory_s: float) -> None:
        """Leave nothing of ours behind; ending twice is no error.

        Waits for memory of cards to come back, and `memory_s` at most.

        Raises:
            GroupSurvives: its processes do not go away.
        """
        ...


def engine_failure(error: EngineError) -> Failure:
    """Why an engine that could be asked does not serve."""
    if isinstance(error, EngineUnreachable | EngineBusy | EngineLost):
        return Failure(FailureReason.UNREACHABLE, str(error))
    if isinstance(error, EngineProtocolError):
        return Failure(
            FailureReason.IDENTITY_MISMATCH,
            f"what answers does not behave as this engine with our key does: {error}",
        )
    return Failure(FailureReason.NOT_PROGRESSING, f"it answers but does not serve: {error}")


async def first_failure(*watches: Callable[[], Awaitable[Failure | None]]) -> Failure:
    """The first failure that a watch returns; the other watches are cancelled."""
    failures: list[Failure] = []
    async with anyio.create_task_group() as group:

        async def run(watch: Callable[[], Awaitable[Failure | None]]) -> None:
            failure = await watch()
            if failure is not None:
                failures.append(failure)
                group.cancel_scope.cancel()

        for watch in watches:
            group.start_soon(run, watch)
    return failures[0]
