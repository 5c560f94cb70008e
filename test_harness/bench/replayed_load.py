"""A load of tasks of mixed lengths that a seed replays: bursts, pauses, two classes."""

from __future__ import annotations

import asyncio
import math
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from test_harness.bench.processes import BenchFailed
from test_harness.bench.streams import client, task_endpoint
from test_harness.stack import Stack
from test_harness.task_client import parse

MAX_TOKENS = 256
OUTPUT_TOKENS = (4, 40, 200)
"""Fewest, median and most; lognormal between."""
PROMPT_WORDS = (5, 80, 600)
SPREAD = 0.9
"""Standard deviation of the logarithm of both."""
GUESS_SPREAD = 0.2
"""The same of a client's guess, around what will come."""
BATCH_SHARE = 0.15
BURST = 12
BURST_EVERY = 25
"""Of so many tasks, the first `BURST` come at once."""


LINE_MOST = 20
"""Tasks in line at most: a slow machine makes the load longer, and not the line."""


@dataclass(frozen=True)
class Pace:
    """How fast one slot is, and how many slots there are."""

    token_ms: float
    prefill_ms_per_token: float
    slots: int


@dataclass(frozen=True)
class Job:
    """One arrival, and what will come of it."""

    at_s: float
    priority: str
    prompt: str
    output_tokens: int
    guess: int


@dataclass(frozen=True)
class Wait:
    """What one task was told when it was accepted, and how long it really waited."""

    job: Job
    position: int
    predicted_ms: float | None
    waited_ms: float

    @property
    def error(self) -> float:
        """How far off the prediction was, as a share of the wait."""
        assert self.predicted_ms is not None
        return abs(self.predicted_ms - self.waited_ms) / self.waited_ms

    @property
    def within_twice(self) -> bool:
        """Whether it was neither more than twice the wait nor less than half of it."""
        assert self.predicted_ms is not None
        return self.waited_ms / 2 <= self.predicted_ms <= self.waited_ms * 2


def jobs_of(seed: int, tasks: int, pace: Pace, load: float) -> list[Job]:
    """Arrivals that keep the slots busy for the share `load` of the time, on average."""
    chance = random.Random(seed)
    sizes = [
        (_lognormal(chance, OUTPUT_TOKENS), _lognormal(chance, PROMPT_WORDS)) for _ in range(tasks)
    ]
    work_ms = sum(o * pace.token_ms + p * pace.prefill_ms_per_token for o, p in sizes)
    gap_s = work_ms / 1000 / pace.slots / load / tasks
    at_s, jobs = 0.0, []
    for number, (output, prompt) in enumerate(sizes):
        in_burst = number % BURST_EVERY < BURST
        # The bursts take none of the time, so that the pauses between have it all.
        at_s += (
            0.0 if in_burst else chance.expovariate(1 / gap_s) * BURST_EVERY / (BURST_EVERY - BURST)
        )
        words = [
            "".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 4)))
            for _ in range(prompt - 1)
        ]
        jobs.append(
            Job(
                at_s=at_s,
                priority="batch" if chance.random() < BATCH_SHARE else "interactive",
                prompt=" ".join([*words, f"len={output}"]),
                output_tokens=output,
                guess=max(1, round(output * chance.lognormvariate(0, GUESS_SPREAD))),
            )
        )
    return jobs


async def play(stack: Stack, jobs: Sequence[Job], pace: Pace, *, guesses: bool) -> list[Wait]:
    """Post each job at its time and follow it to its end; in the order of their arrival."""
    began = asyncio.get_running_loop().time()
    room = asyncio.Semaphore(LINE_MOST + pace.slots)
    async with client() as session, asyncio.TaskGroup() as group:
        waits = []
        for job in jobs:
            await asyncio.sleep(began + job.at_s - asyncio.get_running_loop().time())
            await room.acquire()
            waits.append(group.create_task(_run(session, stack, job, guesses=guesses)))
            waits[-1].add_done_callback(lambda _: room.release())
    return [wait.result() for wait in waits]


async def _run(session: aiohttp.ClientSession, stack: Stack, job: Job, *, guesses: bool) -> Wait:
    task = task_endpoint(
        stack.url,
        stack.token,
        prompt=job.prompt,
        max_tokens=MAX_TOKENS,
        priority=job.priority,
        **({"expected_tokens": job.guess} if guesses else {}),
    )
    async with session.post(task.url, data=task.body, headers=task.headers) as answer:
        told = answer.headers.get("X-Predicted-Start-Ms")
        position = answer.headers.get("X-Queue-Position", "0")
        events = list(parse(iter([await answer.read()])))
    if not events or events[-1].name != "end":
        raise BenchFailed(f"a task ended with {events[-1:]}")
    return Wait(
        job=job,
        position=int(position),
        predicted_ms=None if told is None else float(told),
        waited_ms=events[-1].data["queue_ms"],
    )


def _lognormal(chance: random.Random, bounds: tuple[int, int, int]) -> int:
    fewest, median, most = bounds
    return min(most, max(fewest, round(chance.lognormvariate(math.log(median), SPREAD))))
