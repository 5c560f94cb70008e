"""Every event log there is, and how long a finished one is kept."""

from __future__ import annotations

from collections import OrderedDict

from contracts.config import Streams
from orchestratord.runtime.event_log import EventLog


class LogShelf:
    """Owner of the logs: one a task, bounded each and all together."""

    def __init__(self, config: Streams) -> None:
        self._config = config
        self._logs: dict[str, EventLog] = {}
        self._finished: OrderedDict[str, float] = OrderedDict()

    def open(self, task_id: str, first_id: int = 1) -> EventLog:
        """A new, empty log."""
        log = EventLog(self._config.log_bytes, first_id)
        self._logs[task_id] = log
        return log

    def get(self, task_id: str) -> EventLog | None:
        """The log of a task, while it is kept."""
        return self._logs.get(task_id)

    def finished(self, task_id: str, now: float) -> None:
        """Start the retention of a sealed log; `now` in monotonic seconds."""
        self._finished[task_id] = now

    def evict(self, now: float) -> None:
        """Drop finished logs past their retention, or the oldest while all are too large."""
        expired = now - self._config.retention_ms / 1000
        total = sum(log.bytes for log in self._logs.values())
        while self._finished:
            task_id, finished_at = next(iter(self._finished.items()))
            if finished_at > expired and total <= self._config.log_total_bytes:
                return
            del self._finished[task_id]
            total -= self._logs.pop(task_id).bytes
