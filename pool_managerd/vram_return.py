"""Waiting until an ended replica's GPU memory is back.

A driver frees the memory of a process a while after the process is gone; a launch
in between fails for want of memory that is about to be free.
"""

from __future__ import annotations

import anyio

from pool_managerd.domain.vram import HeldMemory, ReplicaMemory, still_held
from pool_managerd.telemetry.sampler import Sampler, TelemetrySilent

MIB = 1024 * 1024


async def memory_back(telemetry: Sampler, memory: ReplicaMemory, deadline_s: float) -> str | None:
    """Wait for the memory of a replica whose process group is empty.

    Returns None once it is back, else what is still held `deadline_s` later.  Only
    samples begun after the call count: older ones may show the process alive.
    """
    if not memory.uuids:
        return None
    held: tuple[HeldMemory, ...] = ()
    with anyio.move_on_after(deadline_s):
        while True:
            try:
                devices = await telemetry.next_sample(deadline_s)
            except TelemetrySilent:
                break
            held = still_held(memory, devices)
            if not held:
                return None
    if not held:
        return (
            f"the GPU telemetry told nothing for {deadline_s:g} s, so whether the memory is back"
            " is not known; check the driver with `nvidia-smi`"
        )
    cards = ", ".join(
        f"{card.bytes // MIB} MiB on GPU {card.device.index} ({card.device.name})" for card in held
    )
    return (
        f"{cards} still held {deadline_s:g} s after its processes ended;"
        " see what holds it with `nvidia-smi`, or reset the card"
    )
