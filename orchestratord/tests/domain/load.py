"""Arrivals at random, from a seed: what clients ask for, and what will come of it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from contracts.tasks import Priority

MEMORY_PER_TOKEN = 2**20
"""Bytes of cache."""


@dataclass(frozen=True, slots=True)
class Job:
    """One arrival: what the client says, and what will come of it; seconds, tokens, bytes."""

    at: float
    priority: Priority
    prompt: int
    max_tokens: int
    expected: int | None
    output: int
    prefill_s: float
    decode_s: float
    memory: int

    @property
    def run_s(self) -> float:
        return self.prefill_s + self.decode_s


@dataclass(frozen=True, slots=True)
class Load:
    """A stream of jobs, long and short, that come at random.

    Attributes:
        gap_s: between two arrivals, on average.
        early_share: of the tasks, those that stop before `max_tokens`.
        hinted: whether clients say how much output they expect.
        jitter: how far what a token takes may be off; 0.1 is a tenth.
    """

    jobs: int
    gap_s: float
    batch_share: float = 0.3
    early_share: float = 0.2
    hinted: bool = False
    prefill_per_s: float = 2_000.0
    decode_per_s: float = 40.0
    jitter: float = 0.1

    def arrivals(self, seed: int) -> list[Job]:
        chance, at, jobs = random.Random(seed), 0.0, []
        for _ in range(self.jobs):
            at += chance.expovariate(1 / self.gap_s)
            jobs.append(self._job(at, chance))
        return jobs

    def _job(self, at: float, chance: random.Random) -> Job:
        prompt = round(chance.choice((50, 400, 3_000)) * chance.uniform(0.5, 1.5))
        most = chance.choice((32, 128, 512))
        early = chance.random() < self.early_share
        output = max(1, round(most * (chance.uniform(0.1, 1) if early else 1)))
        off = chance.uniform(1 - self.jitter, 1 + self.jitter)
        return Job(
            at=at,
            priority=Priority.BATCH if chance.random() < self.batch_share else Priority.INTERACTIVE,
            prompt=prompt,
            max_tokens=most,
            expected=output if self.hinted else None,
            output=output,
            prefill_s=off * prompt / self.prefill_per_s,
            decode_s=off * (output - 1) / self.decode_per_s,
            memory=(prompt + most) * MEMORY_PER_TOKEN,
        )
