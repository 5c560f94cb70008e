"""What both daemons take while nothing happens, and how long they take to start."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from test_harness.bench.processes import MB, start_until_ready
from test_harness.bench.report import Answer, Figure
from test_harness.stack import DaemonName, Stack
from worker_adapters.tiny_gguf import write_model

NAMES: tuple[DaemonName, ...] = ("pool_managerd", "orchestratord")
"""In the order they are started."""
SETTLE_S = 2.0


class Memory(NamedTuple):
    """MB (10^6 bytes): resident, the same with shared pages divided, and private."""

    rss: float
    pss: float
    uss: float


@dataclass(frozen=True)
class Sample:
    """One start of both daemons."""

    ready_s: dict[DaemonName, float]
    memory: dict[DaemonName, Memory]


def measure(root: Path, rounds: int) -> Answer:
    """Start both daemons on one embedded pool, look at them idle, stop them."""
    write_model(root / "tiny.gguf")
    samples = [_sample(root, number) for number in range(rounds)]
    together = [sum(memory.rss for memory in sample.memory.values()) for sample in samples]
    figures = [Figure.of("RSS of both daemons", together, "MB", "<= 150")]
    for name in NAMES:
        for kind in Memory._fields:
            values = [getattr(sample.memory[name], kind) for sample in samples]
            figures.append(Figure.of(f"{kind.upper()} of {name}", values, "MB"))
    for name in NAMES:
        values = [sample.ready_s[name] for sample in samples]
        figures.append(Figure.of(f"start of {name} to readyz", values, "s", "<= 1.5"))
    return Answer(
        question="Idle memory, and start to readyz",
        measured_how=(
            f"{rounds} starts with one embedded pool, one daemon after the other; memory"
            f" {SETTLE_S:g} s after the replica is ready, the engine's own left out"
        ),
        figures=tuple(figures),
    )


def _sample(root: Path, number: int) -> Sample:
    home = root / f"start-{number}"
    home.mkdir()
    stack = Stack(home, [_pool(root)], gpus={"source": "nvml"})
    try:
        ready = {name: start_until_ready(stack, name) for name in NAMES}
        stack.wait_serving("chat")
        engines = set(stack.pids_of_replicas("chat"))
        time.sleep(SETTLE_S)
        memory = {name: _memory(stack, name, engines) for name in NAMES}
    finally:
        stack.stop()
    return Sample(ready, memory)


def _pool(root: Path) -> dict[str, object]:
    return {
        "id": "chat",
        "engine": "llamacpp",
        "model": {"id": "tiny", "ref": f"file:{root / 'tiny.gguf'}"},
        "ctx": 4096,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "embedded"},
    }


def _memory(stack: Stack, name: DaemonName, engines: Iterable[int]) -> Memory:
    """Of a daemon and its children, engines aside."""
    daemon = psutil.Process(stack.daemons[name].process.pid)
    family = [daemon, *(child for child in daemon.children() if child.pid not in engines)]
    infos = [process.memory_full_info() for process in family]
    return Memory(
        rss=sum(info.rss for info in infos) / MB,
        pss=sum(info.pss for info in infos) / MB,
        uss=sum(info.uss for info in infos) / MB,
    )
