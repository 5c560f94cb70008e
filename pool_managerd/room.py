"""Whether a machine has room for one more replica beside what runs."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread

from contracts.service.settings import model_file
from pool_managerd.domain.devices import DevicesRefused, resolve, split_by_memory
from pool_managerd.domain.fit import Estimate, refusal
from pool_managerd.failure import LaunchRefused
from pool_managerd.fitting import free_cards, needed_memory
from pool_managerd.procfs import available_memory
from pool_managerd.replica import ReplicaEntry
from pool_managerd.telemetry.sampler import Sampler


class Room:
    """Free memory against what a model would take, in bytes."""

    def __init__(self, telemetry: Sampler, reserve_bytes: int) -> None:
        self._telemetry = telemetry
        self._reserve_bytes = reserve_bytes

    async def holds(self, entry: ReplicaEntry) -> bool:
        """Whether a replica of this entry fits beside all that runs now.

        A model that is not here yet, or is no sound one, needs nothing: its launch
        tells, before anything is started.
        """
        model = model_file(entry.pool.model.ref)
        needed: Estimate | None = Estimate(weights=0)
        if model is not None and await anyio.to_thread.run_sync(Path.exists, model):
            try:
                needed = await needed_memory(entry.pool, model)
            except LaunchRefused:
                return True
        wanted = entry.pool.replicas[entry.index].devices
        devices = self._telemetry.devices
        try:
            uuids = resolve(wanted, devices, entry.devices_key)
        except DevicesRefused:
            return False
        cards = free_cards(uuids, devices)
        if needed is None or cards is None:
            return False
        if not cards:
            return needed.total <= await anyio.to_thread.run_sync(available_memory)
        split = split_by_memory(uuids, devices)
        name = entry.pool.model.id
        return refusal(name, needed, cards, self._reserve_bytes, split) is None
