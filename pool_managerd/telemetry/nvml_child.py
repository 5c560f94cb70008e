"""The process that talks to NVML and prints one JSON line per sample.

    python -m pool_managerd.telemetry.nvml_child --sample-ms N

A call into the driver may never return, and may take its process with it when a
card is lost.  So nothing else lives here.  It ends by itself when nobody reads it
any more.  A line is either `{"devices": [...], "began_ms": N}`, as in
`contracts.pools` and on the monotonic clock, or `{"absent": "why there is no
driver"}`, the last one.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml

PROCESSES_MAX = 1024
EVENT_WAIT_MS = 1000
LOST = "lost"
"""As `pool_managerd.domain.devices` calls it; this process loads nothing of the daemon."""

T = TypeVar("T")


def main() -> int:
    """Print samples until the reader is gone."""
    parser = argparse.ArgumentParser(prog="python -m pool_managerd.telemetry.nvml_child")
    parser.add_argument("--sample-ms", type=int, required=True)
    interval_s = parser.parse_args().sample_ms / 1000
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _say({"absent": str(error)})
        return 0
    xids = _Xids()
    seen: dict[int, dict[str, Any]] = {}
    while True:
        began_ms = time.monotonic_ns() // 1_000_000
        cards = [card for card in map(seen.get, _sampled(seen)) if card]
        _say({"devices": [card | xids.of(card["uuid"]) for card in cards], "began_ms": began_ms})
        time.sleep(interval_s)


class _Xids:
    """Counts Xid errors in a thread, because waiting for one blocks.

    A driver or card without events has none to tell; sampling goes on without.
    """

    def __init__(self) -> None:
        self._newest: dict[str, tuple[int, int]] = {}
        self._uuids: dict[int | None, str] = {}
        try:
            self._events = pynvml.nvmlEventSetCreate()
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError:
            return
        for index in range(count):
            self._register(index)
        if self._uuids:
            threading.Thread(target=self._watch, daemon=True).start()

    def of(self, uuid: str) -> dict[str, int]:
        """The newest error of a card, and how many there were."""
        xid, count = self._newest.get(uuid, (0, 0))
        return {"xid": xid, "xid_count": count} if count else {}

    def _register(self, index: int) -> None:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            pynvml.nvmlDeviceRegisterEvents(
                handle, pynvml.nvmlEventTypeXidCriticalError, self._events
            )
        except pynvml.NVMLError:
            return
        # A card that an error took away does not tell its UUID any more.
        self._uuids[_address(handle)] = uuid

    def _watch(self) -> None:
        while True:
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, EVENT_WAIT_MS)
            except pynvml.NVMLError_Timeout:
                continue
            except pynvml.NVMLError_FunctionNotFound:
                return
            except pynvml.NVMLError:
                time.sleep(EVENT_WAIT_MS / 1000)  # a lost card fails at once, for ever
                continue
            uuid = self._uuids.get(_address(event.device))
            if uuid is not None:
                _, count = self._newest.get(uuid, (0, 0))
                self._newest[uuid] = (min(event.eventData, 65535), count + 1)


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _sampled(seen: dict[int, dict[str, Any]]) -> range:
    """Bring `seen` up to date; a card that is lost keeps its name and loses its figures."""
    count = _told(pynvml.nvmlDeviceGetCount)
    indices = range(len(seen) if count is None else count)
    for index in indices:
        try:
            seen[index] = _card(index)
        except pynvml.NVMLError as error:
            if index in seen:
                seen[index] = _lost(seen[index], error)
    return indices


def _card(index: int) -> dict[str, Any]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    total_bytes, used_bytes = _memory(handle)
    rates = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _told(pynvml.nvmlDeviceGetPowerUsage, handle)
    running = _told(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    processes = [{"pid": p.pid, "used_bytes": p.usedGpuMemory} for p in running]
    return {
        "index": index,
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "name": pynvml.nvmlDeviceGetName(handle),
        "total_bytes": total_bytes,
        "used_bytes": used_bytes,
        "utilization": None if rates is None else min(1.0, rates.gpu / 100),
        "temperature_c": _told(
            pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU
        ),
        "power_w": None if power_mw is None else power_mw / 1000,
        "health": _health(handle),
        "processes": processes[:PROCESSES_MAX],
    }


def _memory(handle: Any) -> tuple[int, int]:
    """Total and used bytes; what the driver reserves for itself is used as well."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)  # its `used` holds the reserve
        return memory.total, memory.used
    return memory.total, memory.used + memory.reserved


def _health(handle: Any) -> str:
    """`ok`, or what the card's error counters say."""
    uncorrected = _told(
        pynvml.nvmlDeviceGetTotalEccErrors,
        handle,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        pynvml.NVML_VOLATILE_ECC,
    )
    if uncorrected:
        return f"{uncorrected} memory errors not corrected"
    if _told(pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle):
        return "memory pages to be retired: reset the card"
    return "ok"


def _lost(card: dict[str, Any], error: pynvml.NVMLError) -> dict[str, Any]:
    unknown = dict.fromkeys(("used_bytes", "utilization", "temperature_c", "power_w"))
    gone = isinstance(error, pynvml.NVMLError_GpuIsLost)
    health = LOST if gone else str(error)[:64] or LOST
    return {**card, **unknown, "health": health, "processes": []}


def _told(question: Callable[..., T], *of: Any) -> T | None:
    """The answer, or None where this card or driver has none."""
    try:
        return question(*of)
    except pynvml.NVMLError:
        return None


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()
