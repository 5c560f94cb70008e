"""One pool: what waits for it, what runs on it, and when a slot of it is free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from contracts.model import MILLISECONDS_MAX
from contracts.tasks import Priority
from orchestratord.domain.placement import Candidate
from orchestratord.domain.prediction import Forecast, Pace, PoolRates, Work, start_after
from orchestratord.domain.queue import TaskQueue
from orchestratord.domain.scheduled_task import ScheduledTask


class PoolState:
    """Changed by the scheduler alone."""

    def __init__(self, pool_id: str, batch_max_wait_s: float) -> None:
        self.pool_id = pool_id
        self.queue = TaskQueue(batch_max_wait_s)
        self.rates = PoolRates()
        self.running: dict[str, ScheduledTask] = {}
        self.reserved = 0
        """Places held for tasks whose commit is on its way."""

    def forecast_new(
        self, work: Work, priority: Priority, now: float, candidates: Iterable[Candidate]
    ) -> Forecast:
        """Of a task that joined now."""
        ahead = self.queue.ahead_of_new(priority, now)
        return self._forecast(ahead, ahead.tasks, work, now, candidates)

    def forecast(
        self, task: ScheduledTask, now: float, candidates: Iterable[Candidate]
    ) -> Forecast:
        """Of a task in line."""
        position = self.queue.position(task.task_id, task.priority, now)
        ahead = self.queue.ahead(task.task_id, task.priority, now)
        return self._forecast(ahead, position, task.work, now, candidates)

    def room_in_ms(self, now: float, candidates: Iterable[Candidate]) -> int | None:
        """When the next task leaves the line, at least 1; None where that is not known."""
        slots = self._free_in_ms(now, candidates, self._pace()) if self.rates.known else ()
        return min(max(1, round(min(slots))), MILLISECONDS_MAX) if slots else None

    def remaining_ms(self, task: ScheduledTask, now: float) -> float | None:
        """What a running task still takes."""
        return self._remaining_ms(task, now, self._pace())

    def _forecast(
        self,
        ahead: Work,
        position: int,
        work: Work,
        now: float,
        candidates: Iterable[Candidate],
    ) -> Forecast:
        pace = self._pace()
        ahead_ms, run_ms = self.rates.run_ms(ahead, pace), self.rates.run_ms(work, pace)
        if ahead_ms is None:
            return Forecast(position, None, None)
        slots = self._free_in_ms(now, candidates, pace)
        if not slots:
            return Forecast(position, None, run_ms)
        return Forecast(position, start_after(ahead_ms, ahead.tasks, slots), run_ms)

    def _pace(self) -> Pace:
        return Pace.of(t.progress for t in self.running.values() if t.progress is not None)

    def _remaining_ms(self, task: ScheduledTask, now: float, pace: Pace) -> float | None:
        assert task.progress is not None
        return self.rates.remaining_ms(task.work, task.max_tokens, task.progress, now, pace)

    def _free_in_ms(
        self, now: float, candidates: Iterable[Candidate], pace: Pace
    ) -> Sequence[float]:
        """When each slot has finished what it runs; replicas nobody can date are left out."""
        busy: dict[str, list[float]] = {}
        for task in self.running.values():
            if task.replica_id is not None:
                left = self._remaining_ms(task, now, pace) or 0.0
                busy.setdefault(task.replica_id, []).append(left)
        found: list[float] = []
        for candidate in candidates:
            begin = 0.0 if candidate.ready else candidate.ready_in_ms
            if begin is None:
                continue
            taken = busy.get(candidate.replica_id, [])
            idle = max(0, candidate.slots_total - len(taken))
            found += [max(begin, left) for left in taken] + [begin] * idle
        return found
