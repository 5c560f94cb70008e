"""Every event log there is, who is followed, and how long a finished one is kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import partial

from contracts.config import Streams
from orchestratord.runtime.event_log import EventLog


class LogShelf:
    """Owner of the logs: one a task, bounded each and all together."""

    def __init__(self, config: Streams) -> None:
        self._config = config
        self._logs: dict[str, EventLog] = {}
        self._finished: OrderedDict[str, float] = OrderedDict()
        self._finished_bytes = 0
        self.followed: set[str] = set()
        """Tasks whose log has a reader now."""

    def open(self, task_id: str, first_id: int = 1) -> EventLog:
        """A new, empty log."""
        note = partial(self._note_audience, task_id)
        log = self._logs[task_id] = EventLog(self._config.log_bytes, first_id, note)
        return log

    def get(self, task_id: str) -> EventLog | None:
        """The log of a task, while it is kept."""
        return self._logs.get(task_id)

    def finished(self, task_id: str, now: float) -> None:
        """Start the retention of a sealed log; `now` in monotonic seconds.

        The finished ones are kept within their bound here and now: short tasks with long
        texts would fill the memory between two calls of `evict`.
        """
        self._finished[task_id] = now
        self._finished_bytes += self._logs[task_id].bytes
        while self._finished_bytes > self._config.log_total_bytes:
            self._drop_oldest()

    def evict(self, now: float, running: Iterable[EventLog]) -> None:
        """Drop finished logs past their retention, or the oldest while all are too large.

        Logs of tasks that run count too; those of waiting ones hold next to nothing.
        """
        expired = now - self._config.retention_ms / 1000
        room = self._config.log_total_bytes - sum(log.bytes for log in running)
        while self._finished:
            oldest = next(iter(self._finished.values()))
            if oldest > expired and self._finished_bytes <= room:
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        task_id, _finished_at = self._finished.popitem(last=False)
        self._finished_bytes -= self._logs.pop(task_id).bytes

    def _note_audience(self, task_id: str, present: bool) -> None:
        if present:
            self.followed.add(task_id)
        else:
            self.followed.discard(task_id)
