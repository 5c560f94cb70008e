"""A pool in simulated time under the real scheduler: arrivals, slots, tokens.

Replicas report free memory that falls with every task they run, as often as a
telemetry sample is taken; attempts show their tokens as they come.  Nothing
sleeps, and a seed replays a run.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestratord.domain.decisions import Start
from orchestratord.domain.placement import Candidate
from orchestratord.domain.scheduled_task import ScheduledTask
from orchestratord.domain.scheduler import Scheduler
from orchestratord.domain.task_state import Move
from orchestratord.tests.domain.load import Job
from orchestratord.tests.domain.scheduling import ask, committed


@dataclass(slots=True)
class Card:
    """A replica on a card of its own; bytes."""

    replica_id: str
    slots: int
    free_bytes: int = 0
    running: int = 0

    def as_seen(self) -> Candidate:
        return Candidate(self.replica_id, True, self.slots, max(0, self.free_bytes), 0.0)


@dataclass(frozen=True, slots=True)
class Wait:
    """What one task was told at its acceptance, and what came; seconds."""

    job: Job
    told_s: float | None
    waited_s: float
    replica_id: str

    @property
    def error(self) -> float:
        """Of the prediction, as a share of the wait; only for who was told, and had to wait."""
        assert self.told_s is not None
        return abs(self.told_s - self.waited_s) / self.waited_s


@dataclass(slots=True)
class Simulation:
    """Plays jobs against a scheduler; the cards are sampled every `sample_s`."""

    scheduler: Scheduler
    cards: dict[str, Card]
    sample_s: float = 1.0
    now: float = 0.0
    waits: list[Wait] = field(default_factory=list)
    _jobs: dict[str, Job] = field(default_factory=dict)
    _tasks: dict[str, ScheduledTask] = field(default_factory=dict)
    _ends: list[tuple[float, str]] = field(default_factory=list)
    _seen: list[Candidate] = field(default_factory=list)
    _sampled_at: float = float("-inf")

    @classmethod
    def of(cls, scheduler: Scheduler, *cards: Card) -> Simulation:
        return cls(scheduler, {card.replica_id: card for card in cards})

    def play(self, jobs: Sequence[Job]) -> list[Wait]:
        """Run all jobs to their end; returns the waits in the order of the starts."""
        for number, job in enumerate(jobs):
            self._run_until(job.at)
            self._arrive(number, job)
        self._run_until(float("inf"))
        assert not self._tasks
        return self.waits

    def _run_until(self, at: float) -> None:
        while self._ends and self._ends[0][0] <= at:
            self.now, task_id = heapq.heappop(self._ends)
            self._end(task_id)
        self.now = at

    def _arrive(self, number: int, job: Job) -> None:
        self._note_progress()
        asked = ask(
            f"t{number}",
            job.priority,
            prompt_tokens=job.prompt,
            max_tokens=job.max_tokens,
            expected_tokens=job.expected,
        )
        admitted = self.scheduler.admit(asked, self.now, 0, self._sample())
        task = committed(admitted, number, self.now)
        assert self.scheduler.enqueue(task, admitted) == []
        self._jobs[task.task_id], self._tasks[task.task_id] = job, task
        self._decide()

    def _end(self, task_id: str) -> None:
        self._note_progress()
        job, replica_id = self._jobs[task_id], self._tasks.pop(task_id).replica_id
        assert replica_id is not None
        card = self.cards[replica_id]
        card.running -= 1
        card.free_bytes += job.memory
        self.scheduler.finish(task_id, Move.SUCCEED, job.output, self.now)
        self._decide()

    def _decide(self) -> None:
        for decision in self.scheduler.decide(self.now, {"a": self._sample()}):
            assert isinstance(decision, Start)
            self._start(decision)

    def _start(self, start: Start) -> None:
        job, task = self._jobs[start.task_id], self._tasks[start.task_id]
        card = self.cards[start.replica_id]
        assert card.running < card.slots
        card.running += 1
        card.free_bytes -= job.memory
        heapq.heappush(self._ends, (self.now + job.run_s, start.task_id))
        told = task.predicted_start_at
        told_s = None if told is None else told - task.accepted_at
        self.waits.append(Wait(job, told_s, self.now - task.accepted_at, start.replica_id))

    def _sample(self) -> list[Candidate]:
        if self.now - self._sampled_at >= self.sample_s:
            self._seen = [card.as_seen() for card in self.cards.values()]
            self._sampled_at = self.now
        return self._seen

    def _note_progress(self) -> None:
        """What the running attempts have written by now."""
        for task_id, task in self._tasks.items():
            job, progress = self._jobs[task_id], task.progress
            if progress is None:
                continue
            progress.started_at = progress.began_at
            first = progress.began_at + job.prefill_s
            if self.now >= first:
                per_token = job.decode_s / max(1, job.output - 1)
                after_first = int((self.now - first) / per_token + 1e-6) if per_token else 0
                progress.prompt_tokens, progress.tokens_out = job.prompt, 1 + after_first
                progress.first_token_at = first
                progress.last_token_at = first + after_first * per_token
