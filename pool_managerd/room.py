"""Whether a machine has room for one more replica beside what runs."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread

from contracts.service.settings import model_file
from pool_managerd.domain.devices import DevicesRefused, resolve
from pool_managerd.procfs import available_memory
from pool_managerd.replica import ReplicaEntry
from pool_managerd.telemetry.sampler import Sampler

SPARE = 1.25
"""What a model takes beyond its file for caches and buffers, as a factor; an estimate."""


class Room:
    """Free memory against what a model would take, in bytes."""

    def __init__(self, telemetry: Sampler, reserve_bytes: int) -> None:
        self._telemetry = telemetry
        self._reserve_bytes = reserve_bytes

    async def holds(self, entry: ReplicaEntry) -> bool:
        """Whether a replica of this entry fits beside all that runs now."""
        needed = await anyio.to_thread.run_sync(_needed_bytes, entry)
        wanted = entry.pool.replicas[entry.index].devices
        try:
            cards = resolve(wanted, self._telemetry.devices, entry.devices_key)
        except DevicesRefused:
            return False
        if not cards:
            return needed <= await anyio.to_thread.run_sync(available_memory)
        free = {
            device.uuid: device.total_bytes - device.used_bytes - self._reserve_bytes
            for device in self._telemetry.devices
            if device.used_bytes is not None
        }
        return all(free.get(card, 0) >= needed / len(cards) for card in cards)


def _needed_bytes(entry: ReplicaEntry) -> float:
    path = model_file(entry.pool.model.ref)
    size = Path(path).stat().st_size if path is not None and path.is_file() else 0
    return size * SPARE
