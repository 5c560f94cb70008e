"""One life of a replica: from its launch to the failure that ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

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
    return Failure(FailureReason.NOT_PROGRESSING, f"it answers but generates nothing: {error}")
