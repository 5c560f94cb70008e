"""The newest figures of the cards, and how old they are.

A source that hangs or breaks leaves the last figures and their age: stale is not
zero, and a card that is not seen for a moment has not lost its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio

from contracts.pools import DeviceSample, DeviceView
from pool_managerd.clock import Clock

FIRST_SAMPLE_S = 10.0
STALE_MS = 2_000

Take = Callable[[DeviceSample | None], None]
"""Takes a sample; None says that this machine has no cards to tell of."""


class TelemetrySilent(Exception):
    """No sample has come yet, so nothing is known of the cards."""


class DeviceSource(Protocol):
    """Where figures come from."""

    async def run(self, take: Take) -> None:
        """Give samples for ever; never raises for what a driver or a file does."""
        ...


class Sampler:
    """Runs a source and holds what it said last; `changed` is called after each sample."""

    def __init__(self, source: DeviceSource, clock: Clock, changed: Callable[[], None]) -> None:
        self.devices: tuple[DeviceView, ...] = ()
        self._source = source
        self._clock = clock
        self._changed = changed
        self._sampled_at: int | None = None
        self._first = anyio.Event()

    async def run(self) -> None:
        """Sample for ever."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._source.run, self._take)
            group.start_soon(self._tell_of_age)

    async def _tell_of_age(self) -> None:
        """Figures that nobody renews get older, and that is a change too."""
        while True:
            await anyio.sleep(STALE_MS / 2000)
            age_ms = self.age_ms()
            if age_ms is not None and age_ms > STALE_MS:
                self._changed()

    async def known(self) -> tuple[DeviceView, ...]:
        """The cards, waiting for the first sample if need be.

        Raises:
            TelemetrySilent: none came within `FIRST_SAMPLE_S`.
        """
        with anyio.move_on_after(FIRST_SAMPLE_S):
            await self._first.wait()
        if not self._first.is_set():
            raise TelemetrySilent(
                "the GPU telemetry has not answered yet; see `gpus.source` and the driver"
            )
        return self.devices

    def age_ms(self) -> int | None:
        """Age of the figures, ms; None where there is nothing to be sampled."""
        return None if self._sampled_at is None else self._clock.now_ms() - self._sampled_at

    def _take(self, sample: DeviceSample | None) -> None:
        self.devices = () if sample is None else sample.devices
        self._sampled_at = None if sample is None else self._clock.now_ms()
        self._first.set()
        self._changed()
