"""The newest figures of the cards, and how old they are.

A source that hangs or breaks leaves the last figures and their age: stale is not
zero, and a card that is not seen for a moment has not lost its memory.  A card that
the source does not name any more is shown as lost for as long as the daemon runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio

from contracts.pools import DeviceSample, DeviceView
from pool_managerd.clock import Clock
from pool_managerd.domain.devices import without_figures
from pool_managerd.domain.xid import xid_label

FIRST_SAMPLE_S = 10.0
STALE_MS = 2_000
DEVICES_MAX = 64

Take = Callable[[DeviceSample | None, int], None]
"""Takes a sample, and when its reading began, in monotonic ms.

None in place of the sample says that this machine has no cards to tell of.
"""


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
        self.xid_errors: Counter[tuple[str, str]] = Counter()
        """Xid errors by UUID and metric label."""
        self._source = source
        self._clock = clock
        self._changed = changed
        self._sampled_at: int | None = None
        self._first = anyio.Event()
        self._taken = anyio.Event()

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

    async def next_sample(self, deadline_s: float) -> tuple[DeviceView, ...]:
        """The cards as of the first sample whose reading begins after this call.

        Returns () at once where there are no cards to tell of.

        Raises:
            TelemetrySilent: none came within `deadline_s`.
        """
        asked_ms = self._clock.now_ms()
        with anyio.move_on_after(deadline_s):
            while not self._is_absent():
                await self._taken.wait()
                if self._sampled_at is not None and self._sampled_at > asked_ms:
                    break
            return self.devices
        raise TelemetrySilent(
            f"the GPU telemetry gave no sample for {deadline_s:g} s; see `gpus.source` and the"
            " driver"
        )

    def age_ms(self) -> int | None:
        """Age of the figures, ms; None where there is nothing to be sampled."""
        return None if self._sampled_at is None else self._clock.now_ms() - self._sampled_at

    def _is_absent(self) -> bool:
        """Whether the source said that there are no cards to tell of."""
        return self._first.is_set() and self._sampled_at is None

    def _take(self, sample: DeviceSample | None, began_ms: int) -> None:
        told = () if sample is None else sample.devices
        self._count_xids(told)
        shown = {device.uuid for device in told}
        vanished = (without_figures(d) for d in self.devices if d.uuid not in shown)
        self.devices = (*told, *vanished)[:DEVICES_MAX]
        # Without a driver, but with cards that were there: their loss is a figure too.
        self._sampled_at = began_ms if sample is not None or self.devices else None
        self._first.set()
        self._taken.set()
        self._taken = anyio.Event()
        self._changed()

    def _count_xids(self, told: Sequence[DeviceView]) -> None:
        before = {device.uuid: device.xid_count for device in self.devices}
        for device in told:
            new = device.xid_count - before.get(device.uuid, 0)
            if device.xid is not None and new > 0:
                self.xid_errors[device.uuid, xid_label(device.xid)] += new
