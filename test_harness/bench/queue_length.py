"""Whether a long queue makes a task dearer: to accept, to ask for, to cancel, to keep."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import uvloop

from test_harness.bench.loop_lag import AIM_P99, LoopLag
from test_harness.bench.posting import CLIENTS, post_over, post_tasks, waiting_task
from test_harness.bench.processes import BenchFailed, cpu_seconds, resident_mb
from test_harness.bench.report import Answer, Figure
from test_harness.bench.streams import client
from test_harness.bench.taken_pool import taken_pool
from test_harness.stack import Stack

T = TypeVar("T")

LENGTHS = (10, 1_000, 10_000, 100_000)
AT_ONCE = 8
BATCH = 16
"""Tasks accepted before they are canceled again, so that the queue keeps its length."""
CAPACITY = 1_000_000


@dataclass(frozen=True)
class Effort:
    """How much of everything is measured at each length in each round."""

    operations: int = 480
    """Accepts, and as many cancels and polls."""
    idle_s: float = 3.0


@dataclass(frozen=True)
class Cost:
    """Of one round at one length: CPU of orchestratord, us for each and ms/s for nothing."""

    accept_us: float
    cancel_us: float
    poll_us: float
    idle_ms_per_s: float
    lag_p99_ms: float


@dataclass(frozen=True)
class Stage:
    """One length."""

    costs: list[Cost]
    filling_per_s: float
    filling_lag_p99_ms: float
    resident_mb: float


def measure(root: Path, rounds: int) -> Answer:
    """Fill the queue to each length, and look what everything costs there."""
    return compare(root, rounds, LENGTHS, Effort())


def compare(root: Path, rounds: int, lengths: Sequence[int], effort: Effort) -> Answer:
    """The same at lengths of one's own, the shortest first."""
    waiting: list[str] = []
    stages: dict[int, Stage] = {}
    with taken_pool(root, capacity=CAPACITY) as stack:
        for length in lengths:
            stages[length] = _stage(stack, rounds, waiting, length, effort)
    return Answer(
        question="Cost of a task by the length of the queue",
        measured_how=(
            f"{rounds} rounds at each length of {effort.operations} accepts, cancels and polls,"
            f" {AT_ONCE} at once; CPU of orchestratord, less what it takes in {effort.idle_s:g} s"
            " of"
            " nothing; filled by 32 clients; one slot, which is taken, and starts predicted"
        ),
        figures=(
            *_by_length("accept", "accept_us", "us CPU", stages),
            *_by_length("poll", "poll_us", "us CPU", stages),
            *_by_length("cancel", "cancel_us", "us CPU", stages),
            *_by_length("idle", "idle_ms_per_s", "ms CPU/s", stages),
            *_growth(stages),
            *_by_length("loop lag p99", "lag_p99_ms", "ms", stages, AIM_P99),
            *_filling(stages),
            _memory(stages),
        ),
    )


def _by_length(
    name: str, field: str, unit: str, stages: dict[int, Stage], aim: str | None = None
) -> list[Figure]:
    return [
        Figure.of(f"{name} at {length:,}", [getattr(c, field) for c in stage.costs], unit, aim)
        for length, stage in stages.items()
    ]


def _growth(stages: dict[int, Stage]) -> list[Figure]:
    shortest, *_, longest = stages
    return [
        Figure.of(
            f"{name} at {longest:,} to {shortest:,}",
            [
                getattr(long, field) / getattr(short, field)
                for short, long in zip(stages[shortest].costs, stages[longest].costs, strict=True)
            ],
            "x",
            "about 1",
        )
        for name, field in (("accept", "accept_us"), ("poll", "poll_us"), ("cancel", "cancel_us"))
    ]


def _filling(stages: dict[int, Stage]) -> list[Figure]:
    length, stage = list(stages.items())[-1]
    return [
        Figure.of(f"filling to {length:,}", [stage.filling_per_s], "1/s"),
        Figure.of(
            f"loop lag p99, filling to {length:,}", [stage.filling_lag_p99_ms], "ms", AIM_P99
        ),
    ]


def _memory(stages: dict[int, Stage]) -> Figure:
    before, last = list(stages)[-2:]
    grown_mb = stages[last].resident_mb - stages[before].resident_mb
    name = f"RSS of a queued task, {before:,} to {last:,}"
    return Figure.of(name, [grown_mb * 1000 / (last - before)], "kB")


def _stage(stack: Stack, rounds: int, waiting: list[str], length: int, effort: Effort) -> Stage:
    """Bring the queue to a length, adding to `waiting`, and measure there."""
    lag, began, missing = LoopLag(stack), time.perf_counter(), length - len(waiting)
    posted = uvloop.run(post_tasks([waiting_task(stack)] * CLIENTS, missing))
    seconds = time.perf_counter() - began
    waiting += [task.task_id for task in posted]
    filling_lag = lag.percentile_ms(0.99)
    resident = resident_mb(stack.daemons["orchestratord"].process.pid)
    costs = [uvloop.run(_cost(stack, waiting, effort)) for _ in range(rounds)]
    return Stage(costs, missing / seconds, filling_lag, resident)


async def _cost(stack: Stack, waiting: Sequence[str], effort: Effort) -> Cost:
    """One round; the queue is as long after it as before."""
    meter, lag = await _Meter.begun(stack, effort.idle_s), LoopLag(stack)
    post, accepts, cancels = [waiting_task(stack)] * AT_ONCE, 0.0, 0.0
    tasks = f"{stack.url}/v1/tasks"
    async with client() as session:
        for _ in range(effort.operations // BATCH):
            cost, posted = await meter.measured(post_over(session, post, BATCH))
            accepts += cost
            paths = [f"{tasks}/{task.task_id}/cancel" for task in posted]
            cost, _ = await meter.measured(_ask(session, stack, "POST", paths))
            cancels += cost
        polled = random.Random(1).choices(waiting, k=effort.operations)
        paths = [f"{tasks}/{task_id}" for task_id in polled]
        polls, _ = await meter.measured(_ask(session, stack, "GET", paths))
    return Cost(
        accept_us=accepts / effort.operations * 1e6,
        cancel_us=cancels / effort.operations * 1e6,
        poll_us=polls / effort.operations * 1e6,
        idle_ms_per_s=meter.idle_share * 1000,
        lag_p99_ms=lag.percentile_ms(0.99),
    )


class _Meter:
    """CPU seconds of orchestratord beyond those of an idle one."""

    def __init__(self, pid: int, idle_share: float) -> None:
        self._pid = pid
        self.idle_share = idle_share

    @classmethod
    async def begun(cls, stack: Stack, idle_s: float) -> _Meter:
        """One that has seen it idle."""
        pid = stack.daemons["orchestratord"].process.pid
        before, began = cpu_seconds(pid), time.perf_counter()
        await asyncio.sleep(idle_s)
        return cls(pid, (cpu_seconds(pid) - before) / (time.perf_counter() - began))

    async def measured(self, work: Awaitable[T]) -> tuple[float, T]:
        """What some work costs, and what it returns."""
        before, began = cpu_seconds(self._pid), time.perf_counter()
        result = await work
        idle = self.idle_share * (time.perf_counter() - began)
        return cpu_seconds(self._pid) - before - idle, result


async def _ask(
    session: aiohttp.ClientSession, stack: Stack, method: str, urls: Sequence[str]
) -> None:
    left, headers = iter(urls), stack.headers

    async def one_client() -> None:
        for url in left:
            async with session.request(method, url, headers=headers) as answer:
                if answer.status >= 300:
                    raise BenchFailed(f"{method} {url} answered {answer.status}")
                await answer.read()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_client())
