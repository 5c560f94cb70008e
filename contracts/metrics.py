"""The metrics: names, kinds, labels, buckets and closed label values, as data.

The list lives once, here; both daemons build their objects from it, and the
spec and `/metrics` are checked against it.  A request value is never a label.
Only what is served is listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from contracts.pools import FailureReason, ReplicaState
from contracts.tasks import Priority

UNKNOWN = "none"
"""The value of a label that is not known."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One family: its name without prefix, kind, help, labels and buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    daemon: Literal["orchestratord", "pool_managerd", "both"] = "orchestratord"


ENGINE_POOL = ("engine", "engine_version", "pool_id")
ENGINE_REPLICA = (*ENGINE_POOL, "replica_id")
MILLISECONDS = (1.0, 2.5, 5, 10, 25, 50, 100, 250, 500, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

METRICS: tuple[Metric, ...] = (
    Metric("queue_depth", "gauge", "Tasks waiting.", (*ENGINE_POOL, "priority")),
    Metric(
        "tasks_enqueued_total",
        "counter",
        "Tasks accepted.",
        (*ENGINE_REPLICA, "priority"),
    ),
    Metric(
        "tasks_started_total",
        "counter",
        "Attempts that began.",
        (*ENGINE_REPLICA, "priority"),
    ),
    Metric("tasks_rejected_total", "counter", "Tasks refused, by code.", ("engine", "reason")),
    Metric("tasks_canceled_total", "counter", "Tasks canceled.", (*ENGINE_REPLICA, "reason")),
    Metric(
        "tasks_finished_total",
        "counter",
        "Tasks that reached a terminal state.",
        (*ENGINE_REPLICA, "priority", "outcome"),
    ),
    Metric("tokens_in_total", "counter", "Prompt tokens of finished tasks.", ENGINE_REPLICA),
    Metric("tokens_out_total", "counter", "Generated tokens of finished tasks.", ENGINE_REPLICA),
    Metric(
        "latency_first_token_ms",
        "histogram",
        "Start to first token, ms.",
        (*ENGINE_POOL, "priority"),
        MILLISECONDS,
    ),
    Metric(
        "latency_decode_ms",
        "histogram",
        "First token to last, ms.",
        (*ENGINE_POOL, "priority"),
        MILLISECONDS,
    ),
    Metric(
        "queue_wait_ms",
        "histogram",
        "Acceptance to start, ms.",
        (*ENGINE_POOL, "priority"),
        MILLISECONDS,
    ),
    Metric(
        "prediction_error_ms",
        "histogram",
        "How far a task's start was from the start predicted when it was accepted, ms.",
        (),
        MILLISECONDS,
    ),
    Metric(
        "admission_backpressure_events_total",
        "counter",
        "Tasks that met a full queue, by what was done about it.",
        ("engine", "policy"),
    ),
    Metric(
        "event_loop_lag_seconds",
        "histogram",
        "How late a periodic timer ran, s.",
        (),
        LAG_SECONDS,
        daemon="both",
    ),
    Metric(
        "active_leases",
        "gauge",
        "Slots under a lease.",
        ("pool_id", "replica_id"),
        daemon="pool_managerd",
    ),
    Metric(
        "replica_state",
        "gauge",
        "1 for the state a replica is in, else 0.",
        ("pool_id", "replica_id", "state"),
        daemon="pool_managerd",
    ),
    Metric(
        "replica_restarts_total",
        "counter",
        "Starts after a failure.",
        ("pool_id", "replica_id", "reason"),
        daemon="pool_managerd",
    ),
    Metric(
        "kv_cache_usage_ratio",
        "gauge",
        "KV cache in use; absent where the engine does not tell.",
        ("pool_id", "replica_id"),
        daemon="pool_managerd",
    ),
    Metric(
        "kv_cache_evictions_total",
        "counter",
        "Running sequences whose KV cache was taken from them; absent where the engine does not"
        " tell.",
        ("pool_id", "replica_id"),
        daemon="pool_managerd",
    ),
    Metric(
        "engine_requests_running",
        "gauge",
        "Requests an engine works at; absent where it does not tell.",
        ("pool_id", "replica_id"),
        daemon="pool_managerd",
    ),
    Metric(
        "engine_requests_waiting",
        "gauge",
        "Requests that wait inside an engine; absent where it does not tell.",
        ("pool_id", "replica_id"),
        daemon="pool_managerd",
    ),
    Metric("gpu_utilization", "gauge", "Busy share, 0 to 1.", ("device",), daemon="pool_managerd"),
    Metric("vram_used_bytes", "gauge", "Memory in use.", ("device",), daemon="pool_managerd"),
    Metric("vram_total_bytes", "gauge", "Memory in all.", ("device",), daemon="pool_managerd"),
    Metric(
        "gpu_sample_age_seconds",
        "gauge",
        "Age of the figures of the cards, s; absent where there is no source.",
        ("device",),
        daemon="pool_managerd",
    ),
    Metric(
        "gpu_xid_errors_total",
        "counter",
        "Xid errors of the driver.",
        ("device", "xid"),
        daemon="pool_managerd",
    ),
)

LABEL_VALUES: dict[str, tuple[str, ...]] = {
    "priority": tuple(Priority),
    "state": tuple(ReplicaState),
    "outcome": ("succeeded", "failed", "canceled"),
    "policy": ("reject", "drop-lru"),
    "xid": (
        *("13", "31", "43", "45", "48", "63", "64", "74", "79", "94", "95", "119", "120"),
        "other",
    ),
}
"""Labels whose values are closed in every family."""

RESTART_REASONS = tuple(FailureReason)
CANCEL_REASONS = ("client", "session")
