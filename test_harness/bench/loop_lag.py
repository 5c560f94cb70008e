"""How late the event loop of orchestratord was, by the histogram that it keeps itself."""

from __future__ import annotations

import math
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

from test_harness.stack import Stack

FAMILY = "event_loop_lag_seconds"
AIM_P99 = "<= 50"
"""ms, whatever is asked of it."""

Buckets = dict[float, float]
"""Upper bound, s: timers that were at most so late."""


class LoopLag:
    """The timers that were due since this was made."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._before = _read(stack)

    def percentile_ms(self, share: float) -> float:
        """How late, ms, the timer was below which `share` (0 to 1) of the others lie."""
        now = _read(self._stack)
        return 1000 * quantile({le: now[le] - self._before[le] for le in now}, share)


def quantile(buckets: Buckets, share: float) -> float:
    """As Prometheus's `histogram_quantile`: linear within a bucket, the last bound beyond it."""
    wanted = share * buckets[math.inf]
    ends = [(0.0, 0.0), *sorted(buckets.items())]
    for (low, below), (high, through) in pairwise(ends):
        if through >= wanted and through > below:
            part = (wanted - below) / (through - below)
            return low if high == math.inf else low + (high - low) * part
    return 0.0


def _read(stack: Stack) -> Buckets:
    with stack.client() as client:
        text = client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        float(sample.labels["le"]): sample.value
        for sample in families[FAMILY].samples
        if sample.name == f"{FAMILY}_bucket"
    }
