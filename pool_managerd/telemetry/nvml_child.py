"""The process that talks to NVML and prints one JSON line per sample.

    python -m pool_managerd.telemetry.nvml_child --sample-ms N

A call into the driver may never return, and may take its process with it when a
card is lost.  So nothing else lives here.  It ends by itself when nobody reads it
any more.  A line is either `{"devices": [...]}`, as in `contracts.pools`, or
`{"absent": "why there is no driver"}`, the last one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml

PROCESSES_MAX = 1024

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
    seen: dict[int, dict[str, Any]] = {}
    while True:
        _say({"devices": [card for card in map(seen.get, _sampled(seen)) if card]})
        time.sleep(interval_s)


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
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    rates = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _told(pynvml.nvmlDeviceGetPowerUsage, handle)
    running = _told(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    processes = [{"pid": p.pid, "used_bytes": p.usedGpuMemory} for p in running]
    return {
        "index": index,
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "name": pynvml.nvmlDeviceGetName(handle),
        "total_bytes": memory.total,
        "used_bytes": memory.used,
        "utilization": None if rates is None else min(1.0, rates.gpu / 100),
        "temperature_c": _told(
            pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU
        ),
        "power_w": None if power_mw is None else power_mw / 1000,
        "health": "ok",
        "processes": processes[:PROCESSES_MAX],
    }


def _lost(card: dict[str, Any], error: pynvml.NVMLError) -> dict[str, Any]:
    unknown = dict.fromkeys(("used_bytes", "utilization", "temperature_c", "power_w"))
    return {**card, **unknown, "health": str(error)[:64] or "lost", "processes": []}


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
