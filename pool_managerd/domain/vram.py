"""Whether the GPU memory of an ended replica is back.

The caller passes only samples that were begun after the process group was empty.
Where the source listed the replica's own processes, their absence is the answer.
Where it did not, as for pids of another namespace, the card's used memory is: it
must have fallen by nearly what the replica had grown, or to what it was before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from contracts.pools import DeviceView
from pool_managerd.domain.devices import is_lost

SLACK_BYTES = 256 * 1024 * 1024
RETURNED_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class MemoryMark:
    """The cards of a replica at one moment, by UUID."""

    used: Mapping[str, int]
    """Memory in use; a card that did not tell is absent."""
    pids: Mapping[str, frozenset[int]]
    """Processes listed as holding memory."""


@dataclass(frozen=True, slots=True)
class ReplicaMemory:
    """What is known of the memory one launch took."""

    uuids: tuple[str, ...]
    before: MemoryMark
    """Before its process was started."""
    serving: MemoryMark | None = None
    """When it came to serve; None: it never did."""
    stopping: MemoryMark | None = None
    """When its stop began, or its end was seen."""
    pids: frozenset[int] = frozenset()
    """Everything its process group ever had."""


@dataclass(frozen=True, slots=True)
class HeldMemory:
    """A card that has not given back what the replica took."""

    device: DeviceView
    bytes: int


def memory_mark(devices: Sequence[DeviceView], uuids: Sequence[str]) -> MemoryMark:
    """The cards `uuids` as `devices` shows them."""
    mine = [device for device in devices if device.uuid in uuids]
    return MemoryMark(
        used={device.uuid: device.used_bytes for device in mine if device.used_bytes is not None},
        pids={device.uuid: _pids(device) for device in mine},
    )


def still_held(memory: ReplicaMemory, devices: Sequence[DeviceView]) -> tuple[HeldMemory, ...]:
    """The cards whose memory is not back; () is all of it.

    A card that is lost, gone or tells nothing is not waited for.
    """
    held = (
        HeldMemory(device, _held(memory, device))
        for device in devices
        if device.uuid in memory.uuids and not is_lost(device)
    )
    return tuple(card for card in held if card.bytes > 0)


def _held(memory: ReplicaMemory, device: DeviceView) -> int:
    """Bytes still held on a card; 0: it is back."""
    ours = [process for process in device.processes if process.pid in memory.pids]
    if ours:
        return max(1, sum(process.used_bytes or 0 for process in ours))
    if _was_listed(memory, device.uuid):
        return 0
    return _held_by_use(memory, device)


def _was_listed(memory: ReplicaMemory, uuid: str) -> bool:
    marks = (memory.serving, memory.stopping)
    return any(mark is not None and memory.pids & mark.pids.get(uuid, set()) for mark in marks)


def _held_by_use(memory: ReplicaMemory, device: DeviceView) -> int:
    before = memory.before.used.get(device.uuid)
    if before is None or device.used_bytes is None:
        return 0
    if device.used_bytes <= before + SLACK_BYTES:
        return 0
    peaks = [
        mark.used[device.uuid]
        for mark in (memory.serving, memory.stopping)
        if mark is not None and device.uuid in mark.used
    ]
    if peaks:
        grown = max(peaks) - before
        if device.used_bytes <= max(peaks) - RETURNED_SHARE * grown:
            return 0
    return device.used_bytes - before


def _pids(device: DeviceView) -> frozenset[int]:
    return frozenset(process.pid for process in device.processes)


def held_bytes(
    devices: Sequence[DeviceView], uuids: Sequence[str], pids: AbstractSet[int]
) -> int | None:
    """Memory that the processes hold on the cards; None where the source does not tell."""
    told = [
        process.used_bytes
        for device in devices
        if device.uuid in uuids
        for process in device.processes
        if process.pid in pids and process.used_bytes is not None
    ]
    return sum(told) if told else None
