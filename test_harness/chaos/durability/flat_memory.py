"""A daemon that has been through a lot is as small as it was, and leaves nobody behind."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import linear_regression
from uuid import UUID

import psutil

from test_harness.chaos.figures import Figures, at_least, at_most, exactly
from test_harness.chaos.rig import fake_pool, served
from test_harness.chaos.standing import standing
from test_harness.chaos.streams.wire import Wire, event_id
from test_harness.stack import Stack
from test_harness.task_client import TaskClient

MIB = 1_048_576
WORKERS = 8
TOKENS_MOST = 12
TASKS_OF_A_SESSION = 4
SAMPLE_S = 5.0
WARM_S = 300.0
"""Time in which an allocator and the stores take what they keep."""
GROWTH_MIB = 2.0
"""In `STRETCH_S`, once it is warm."""
STRETCH_S = 600.0
CANCELED = RECONNECTING = 0.2
"""Shares of the tasks."""
GROWTH_SHORT_MIB = 40.0
FULL_S = 1_800.0


@dataclass
class _Done:
    """What the workers did; counted from any of them."""

    ends: Counter[str] = field(default_factory=Counter)
    reconnects: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def note(self, end: str, reconnects: int) -> None:
        """One task has ended so."""
        with self._turn:
            self.ends[end] += 1
            self.reconnects += reconnects


class _Memory:
    """Resident memory of a process, sampled."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._began = time.monotonic()
        self.samples: list[tuple[float, float]] = []
        """Seconds since the beginning, MiB."""
        self.look()

    def look(self) -> None:
        """One sample."""
        mib = self._process.memory_info().rss / MIB
        self.samples.append((time.monotonic() - self._began, mib))

    def growth_mib(self) -> float:
        """From the first sample to the last."""
        return self.samples[-1][1] - self.samples[0][1]

    def growth_once_warm_mib(self) -> float:
        """In a stretch of ten minutes, by a line through the samples after the warm-up."""
        warm = [(at, mib) for at, mib in self.samples if at >= WARM_S] or self.samples
        return STRETCH_S * linear_regression(*zip(*warm, strict=True)).slope


def flat_memory(root: Path, seed: int, full: bool) -> Figures:
    """Tasks, cancels, reconnects and sessions for a long time; files and memory stay flat."""
    tasks = 30_000 if full else 300
    streams = {"retention_ms": 20_000, "log_total_bytes": 8 * MIB}
    pool = fake_pool(root, "--token-ms", "2", slots=4)
    done = _Done()
    with served(root, pool, streams=streams, sessions={"ttl_ms": 20_000}) as stack:
        _work(stack, seed, tasks // 10, done, 0.0)
        with standing(stack, full) as figures:
            memory = _Memory(psutil.Process(stack.daemons["orchestratord"].process.pid))
            _work(stack, seed + 1, tasks, done, FULL_S if full else 0.0, memory)
    well = done.ends["end"] + done.ends["CANCELED"]
    return figures | {
        "tasks": at_least(done.ends.total(), tasks),
        "canceled": at_least(done.ends["CANCELED"], tasks / 20),
        "ended otherwise": exactly(done.ends.total() - well, 0),
        "reconnects": at_least(done.reconnects, tasks / 20),
        "memory at the end, MiB": memory.samples[-1][1],
        "growth, MiB": memory.growth_mib(),
        "growth that counts, MiB": at_most(memory.growth_once_warm_mib(), GROWTH_MIB)
        if full
        else at_most(memory.growth_mib(), GROWTH_SHORT_MIB),
    }


def _work(
    stack: Stack, seed: int, tasks: int, done: _Done, least_s: float, memory: _Memory | None = None
) -> None:
    """So many tasks, and more until so many seconds are over."""
    over = threading.Event()
    sampler = threading.Thread(target=_sample, args=(memory, over), daemon=True)
    sampler.start()
    until = time.monotonic() + least_s
    work = partial(_worker, stack, seed, tasks // WORKERS + 1, until, done)
    try:
        with ThreadPoolExecutor(WORKERS) as workers:
            list(workers.map(work, range(WORKERS)))
    finally:
        over.set()
        sampler.join()


def _sample(memory: _Memory | None, over: threading.Event) -> None:
    while memory is not None and not over.wait(SAMPLE_S):
        memory.look()
    if memory is not None:
        memory.look()


def _worker(stack: Stack, seed: int, tasks: int, until: float, done: _Done, number: int) -> None:
    """Task after task, of sessions of their own; some are canceled, some readers come back."""
    chance, ran = random.Random(f"{seed}/{number}"), 0
    with TaskClient(stack) as client:
        while ran < tasks or time.monotonic() < until:
            session_id = str(UUID(int=chance.getrandbits(128), version=4))
            for _ in range(TASKS_OF_A_SESSION):
                done.note(*_one_task(stack, client, chance, session_id))
                ran += 1


def _one_task(
    stack: Stack, client: TaskClient, chance: random.Random, session_id: str
) -> tuple[str, int]:
    """One task to its end; how it ended, and how often its reader came back."""
    tokens = chance.randint(1, TOKENS_MOST)
    task_id = client.accept(max_tokens=tokens, session_id=session_id)
    if chance.random() < CANCELED:
        time.sleep(chance.uniform(0, 0.02))
        assert client.cancel(task_id) == 204
    seen, reconnects = 0, 0
    if chance.random() < RECONNECTING:
        with Wire(stack).follow(task_id) as wire:
            seen = event_id(next(wire.frames()))
            wire.reset()
        reconnects = 1
    events = client.collect(task_id, after=seen or None)
    last = events[-1] if events else client.collect(task_id)[-1]
    return last.data.get("code", last.name), reconnects
