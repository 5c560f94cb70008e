"""The cards of one launch: whether it computes on them, and whether they are free after it."""

from __future__ import annotations

import anyio
import anyio.to_thread

from pool_managerd.domain.gpu_watch import SAMPLES, GpuWatch
from pool_managerd.domain.replica_state import SERVING
from pool_managerd.domain.vram import MemoryMark, ReplicaMemory, memory_mark
from pool_managerd.domain.xid import XidVerdict, xid_verdict
from pool_managerd.procfs import session_members
from pool_managerd.replica import Replica
from pool_managerd.telemetry.sampler import Sampler, TelemetrySilent
from pool_managerd.vram_return import memory_back

SAMPLE_S = 30.0
SELDOM_S = 10.0
"""Between two looks once it is clear where it computes: who holds what is read off /proc."""
NOTHING = MemoryMark({}, {})


class CardWatch:
    """Follows the cards from before the launch until their memory is back.

    Args:
        group: of its processes; None where they are not ours to see, as in a container.
        before: the cards before it was started; `NOTHING` where that is not known.
    """

    def __init__(
        self,
        replica: Replica,
        telemetry: Sampler,
        uuids: tuple[str, ...],
        group: int | None,
        before: MemoryMark,
    ) -> None:
        self._replica = replica
        self._telemetry = telemetry
        self._uuids = uuids
        self._group = group
        self._before = before
        self._serving: MemoryMark | None = None
        self._pids: frozenset[int] = frozenset()
        self._judge = GpuWatch(uuids, before, expected_bytes=None)
        self._xids = self._xid_counts()

    async def run(self) -> None:
        """Show the replica degraded for as long as it serves off its cards; for ever."""
        looks = 0
        while self._uuids and self._group is not None:
            try:
                devices = await self._telemetry.next_sample(SAMPLE_S)
            except TelemetrySilent:
                continue
            if self._replica.state in SERVING:
                self._serving = self._serving or memory_mark(devices, self._uuids)
                self._pids |= await self._members()
                self._replica.found_degraded(self._judge.degraded(devices, self._pids))
                looks += 1
            await anyio.sleep(SELDOM_S if looks > SAMPLES else 0)

    def new_xid(self) -> XidVerdict | None:
        """What the driver has reported on its cards since the launch, if anything."""
        before = self._xids
        for device in self._telemetry.devices:
            new = device.xid_count > before.get(device.uuid, 0)
            if device.uuid in self._uuids and device.xid is not None and new:
                return xid_verdict(device.xid)
        return None

    async def before_end(self) -> ReplicaMemory:
        """What it holds, as its end begins."""
        if self._uuids and self._group is not None:
            self._pids |= await self._members()
        return ReplicaMemory(
            self._uuids,
            self._before,
            self._serving,
            memory_mark(self._telemetry.devices, self._uuids),
            self._pids,
        )

    async def memory_back(self, memory: ReplicaMemory, deadline_s: float) -> str | None:
        """None once its memory is back, else what is still held after `deadline_s`."""
        return await memory_back(self._telemetry, memory, deadline_s)

    def _xid_counts(self) -> dict[str, int]:
        return {device.uuid: device.xid_count for device in self._telemetry.devices}

    async def _members(self) -> frozenset[int]:
        assert self._group is not None
        return frozenset(await anyio.to_thread.run_sync(session_members, self._group))
