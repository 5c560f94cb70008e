"""The families of `contracts.metrics` as Prometheus objects, for one daemon."""

from __future__ import annotations

import itertools
import time
from typing import Literal, TypeVar

import anyio
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from contracts.metrics import LABEL_VALUES, METRICS, Metric

LAG_INTERVAL_SECONDS = 0.1
Family = Counter | Gauge | Histogram
F = TypeVar("F", Counter, Gauge, Histogram)

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the scrape


class MetricsRegistry:
    """Every family one daemon serves.

    Callers keep the child that `labels()` returns: looking it up again costs three
    times what counting does.
    """

    def __init__(self, daemon: Literal["orchestratord", "pool_managerd"]) -> None:
        self._registry = CollectorRegistry()
        self._metrics = {
            metric.name: metric for metric in METRICS if metric.daemon in (daemon, "both")
        }
        self._families = {
            metric.name: _family(metric, self._registry) for metric in self._metrics.values()
        }
        for metric in self._metrics.values():
            if metric.labels and set(metric.labels) <= LABEL_VALUES.keys():
                self.prepare(metric.name)

    def counter(self, name: str) -> Counter:
        """The counter `name`; KeyError where this daemon has none."""
        return self._typed(name, Counter)

    def gauge(self, name: str) -> Gauge:
        """The gauge `name`; KeyError where this daemon has none."""
        return self._typed(name, Gauge)

    def histogram(self, name: str) -> Histogram:
        """The histogram `name`; KeyError where this daemon has none."""
        return self._typed(name, Histogram)

    def prepare(self, name: str, **known: str) -> None:
        """Make the series of every closed label value, so that a scrape shows zeros.

        Raises:
            ValueError: a label is neither given nor closed.
        """
        labels = self._metrics[name].labels
        open_labels = [
            label for label in labels if label not in known and label not in LABEL_VALUES
        ]
        if open_labels:
            raise ValueError(f"{name}: give {', '.join(open_labels)}")
        choices = [[known[label]] if label in known else LABEL_VALUES[label] for label in labels]
        for values in itertools.product(*choices):
            self._families[name].labels(*values)

    def render(self) -> bytes:
        """All of it in the Prometheus text format 0.0.4."""
        return generate_latest(self._registry)

    async def watch_loop_lag(self, interval: float = LAG_INTERVAL_SECONDS) -> None:
        """Feed `event_loop_lag_seconds` every `interval` seconds until cancelled."""
        lag = self.histogram("event_loop_lag_seconds")
        while True:
            due = time.monotonic() + interval
            await anyio.sleep(interval)
            lag.observe(max(0.0, time.monotonic() - due))

    def _typed(self, name: str, kind: type[F]) -> F:
        family = self._families[name]
        if not isinstance(family, kind):
            raise KeyError(f"{name} is not a {kind.__name__.lower()}")
        return family


def _family(metric: Metric, registry: CollectorRegistry) -> Family:
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(metric.name, metric.help, metric.labels, registry=registry)
    return Histogram(
        metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
    )
