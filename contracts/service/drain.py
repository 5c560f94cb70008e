"""Stopping without surprise: no new work, every open stream ended, then down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from contracts.errors import ErrorCode, Refusal

OVERLOAD_RETRY_MS = 1_000


class Drain:
    """One stop of one daemon, and the count of event streams still open.

    `begin` is called once, at the first SIGTERM or SIGINT.  From then on routes
    that admit work answer 503, and whoever follows a stream is expected to end
    it with its own terminal event: a server cannot invent one.
    """

    def __init__(self, streams_max: int = 1024) -> None:
        self._streams_max = streams_max
        self._open = 0
        self._begun = anyio.Event()
        self._idle = anyio.Event()
        self._idle.set()

    @property
    def begun(self) -> bool:
        """Whether the daemon is stopping."""
        return self._begun.is_set()

    @property
    def streams_open(self) -> int:
        """Event streams open now."""
        return self._open

    @property
    def is_full(self) -> bool:
        """Whether `stream` would refuse now."""
        return self._open >= self._streams_max

    def begin(self) -> None:
        """Stop admitting work; calling it again changes nothing."""
        self._begun.set()

    async def wait_begun(self) -> None:
        """Return once the daemon is stopping."""
        await self._begun.wait()

    async def wait_idle(self) -> None:
        """Return once no event stream is open."""
        while self._open:
            await self._idle.wait()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count one event stream for as long as the block lasts.

        Enter it outside the generator that yields the events: a generator that
        was never started never runs its `finally`, and would leak the count.

        Raises:
            Refusal: ADMISSION_REJECT when `limits.streams` are open.
        """
        if self.is_full:
            raise Refusal(
                ErrorCode.ADMISSION_REJECT,
                f"{self._streams_max} event streams are open, which is limits.streams",
                retry_after_ms=OVERLOAD_RETRY_MS,
                policy_label="streams",
            )
        if not self._open:
            self._idle = anyio.Event()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()
