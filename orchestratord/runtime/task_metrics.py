"""What the dispatcher counts, under the names of `contracts.metrics`."""

from __future__ import annotations

from typing import Literal

from contracts.errors import ErrorCode
from contracts.metrics import UNKNOWN
from contracts.service.prometheus import MetricsRegistry
from contracts.tasks import Priority
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.scheduler import Scheduler
from orchestratord.runtime.active_task import ActiveTask
from orchestratord.runtime.attempt import Attempt
from orchestratord.runtime.ending import Canceled
from orchestratord.runtime.outcome import Final
from orchestratord.stores.tasks import Outcome


class TaskMetrics:
    """Counters of tasks and tokens; label values come from the configuration and engines only."""

    def __init__(self, registry: MetricsRegistry) -> None:
        self._shown_version: dict[str, str] = {}
        self._queue_depth = registry.gauge("queue_depth")
        self._enqueued = registry.counter("tasks_enqueued_total")
        self._started = registry.counter("tasks_started_total")
        self._rejected = registry.counter("tasks_rejected_total")
        self._canceled = registry.counter("tasks_canceled_total")
        self._finished = registry.counter("tasks_finished_total")
        self._tokens_in = registry.counter("tokens_in_total")
        self._tokens_out = registry.counter("tokens_out_total")
        self._first_token = registry.histogram("latency_first_token_ms")
        self._decode = registry.histogram("latency_decode_ms")
        self._queue_wait = registry.histogram("queue_wait_ms")
        self._prediction_error = registry.histogram("prediction_error_ms")
        self._backpressure = registry.counter("admission_backpressure_events_total")

    def queue_depth(self, spec: PoolSpec, engine_version: str | None, queue: Scheduler) -> None:
        """Show how many tasks of each class wait for a pool.

        The version is a label, so when it becomes known or changes the old
        series goes: two series of one queue would count its tasks twice.
        """
        version = engine_version or UNKNOWN
        shown = self._shown_version.setdefault(spec.pool_id, version)
        for priority in Priority:
            if shown != version:
                self._queue_depth.remove(spec.engine, shown, spec.pool_id, priority)
            depth = queue.depth(spec.pool_id, priority)
            self._queue_depth.labels(spec.engine, version, spec.pool_id, priority).set(depth)
        self._shown_version[spec.pool_id] = version

    def enqueued(self, task: ActiveTask) -> None:
        """A task was accepted; where it will run is not known yet."""
        self._enqueued.labels(
            task.spec.engine, UNKNOWN, task.spec.pool_id, UNKNOWN, task.new.request.priority
        ).inc()

    def rejected(self, engine: str | None, code: ErrorCode) -> None:
        """A task was refused."""
        self._rejected.labels(engine or UNKNOWN, code).inc()

    def backpressure(self, engine: str, policy: Literal["reject", "drop-lru"]) -> None:
        """A full queue was met, and this was done about it."""
        self._backpressure.labels(engine, policy).inc()

    def predicted(self, error_ms: float | None) -> None:
        """A task starts so much later than it was told when it was accepted."""
        if error_ms is not None:
            self._prediction_error.observe(abs(error_ms))

    def started(self, task: ActiveTask, attempt: Attempt) -> None:
        """An attempt began."""
        self._started.labels(*_replica_labels(task, attempt), task.new.request.priority).inc()

    def finished(self, task: ActiveTask, outcome: Outcome, ending: Final) -> None:
        """A task reached a terminal state."""
        replica = _replica_labels(task, task.attempt)
        engine, version, pool_id, _ = replica
        priority = task.new.request.priority
        self._finished.labels(*replica, priority, outcome.state).inc()
        if isinstance(ending, Canceled):
            self._canceled.labels(*replica, ending.by).inc()
        self._tokens_in.labels(*replica).inc(outcome.tokens_in or 0)
        self._tokens_out.labels(*replica).inc(outcome.tokens_out)
        for histogram, value in (
            (self._queue_wait, outcome.queue_ms),
            (self._first_token, outcome.first_token_ms),
            (self._decode, outcome.decode_ms),
        ):
            if value is not None:
                histogram.labels(engine, version, pool_id, priority).observe(value)


def _replica_labels(task: ActiveTask, attempt: Attempt | None) -> tuple[str, str, str, str]:
    version = attempt.replica.engine_version if attempt else None
    replica_id = attempt.replica.replica_id if attempt else None
    return (task.spec.engine, version or UNKNOWN, task.spec.pool_id, replica_id or UNKNOWN)
