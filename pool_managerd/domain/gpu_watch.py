"""Whether a serving replica computes on its cards, or on the CPU without a word.

An engine that cannot use a card mostly goes on without it, a hundred times slower.
What gives it away is that its process holds no memory there.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from contracts.pools import DeviceView
from pool_managerd.domain.devices import is_lost
from pool_managerd.domain.vram import MemoryMark

SAMPLES = 3
"""Samples in a row that must agree, because a process list may lag behind."""
GROWN_SHARE = 0.05
"""Of the expected memory; less growth than that is none."""


class GpuWatch:
    """Judges one serving launch, sample by sample.

    Args:
        uuids: its cards; () is never degraded.
        before: its cards before the launch.
        expected_bytes: memory it should take on all cards together, for sources
            that list no processes; None: those are not judged.
    """

    def __init__(
        self, uuids: Sequence[str], before: MemoryMark, expected_bytes: int | None
    ) -> None:
        self._uuids = tuple(uuids)
        self._before = before
        self._expected_bytes = expected_bytes
        self._missed: dict[str, int] = dict.fromkeys(uuids, 0)

    def degraded(self, devices: Sequence[DeviceView], group_pids: AbstractSet[int]) -> str | None:
        """What is wrong as of a sample taken since it serves; None: nothing is.

        To be called once for each sample; `group_pids` are the processes of its
        group as the source numbers them.
        """
        mine = [device for device in devices if device.uuid in self._uuids]
        lost = [device for device in mine if is_lost(device)]
        if lost:
            return f"{_named(lost)} lost: reset the driver or reboot"
        missing = set(self._missing(devices, mine, group_pids))
        for uuid in self._missed:
            self._missed[uuid] = self._missed[uuid] + 1 if uuid in missing else 0
        empty = [device for device in mine if self._missed[device.uuid] >= SAMPLES]
        if not empty:
            return None
        where = "computes on the CPU" if len(empty) == len(mine) else "does not use it"
        return f"its process holds no memory on {_listed(empty)}: it {where}; check the driver"

    def _missing(
        self,
        devices: Sequence[DeviceView],
        mine: Sequence[DeviceView],
        group_pids: AbstractSet[int],
    ) -> list[str]:
        """Cards on which this sample shows nothing of it."""
        if any(device.processes for device in devices):
            return [device.uuid for device in mine if not _holds(device, group_pids)]
        grown = self._grown(mine)
        if grown is None or self._expected_bytes is None:
            return []
        return [d.uuid for d in mine] if grown < GROWN_SHARE * self._expected_bytes else []

    def _grown(self, mine: Sequence[DeviceView]) -> int | None:
        grown = 0
        for device in mine:
            before = self._before.used.get(device.uuid)
            if before is None or device.used_bytes is None:
                return None
            grown += max(0, device.used_bytes - before)
        return grown


def _holds(device: DeviceView, pids: AbstractSet[int]) -> bool:
    return any(process.pid in pids for process in device.processes)


def _listed(devices: Sequence[DeviceView]) -> str:
    cards = ", ".join(f"{device.index} ({device.name})" for device in devices)
    return f"GPU {cards}"


def _named(devices: Sequence[DeviceView]) -> str:
    return f"{_listed(devices)} {'is' if len(devices) == 1 else 'are'}"
