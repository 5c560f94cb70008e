"""Every scenario, by name.

A package of scenarios lists its own as `SCENARIOS` in its `catalogue` module, and is
named here.
"""

from __future__ import annotations

from test_harness.chaos.durability.catalogue import SCENARIOS as DURABILITY
from test_harness.chaos.queueing.catalogue import SCENARIOS as QUEUEING
from test_harness.chaos.scenario import Scenario
from test_harness.chaos.streams.catalogue import SCENARIOS as STREAMS
from test_harness.chaos.supervision.catalogue import SCENARIOS as SUPERVISION

SCENARIOS: dict[str, Scenario] = {
    s.name: s for s in (*DURABILITY, *QUEUEING, *STREAMS, *SUPERVISION)
}


def named(name: str) -> list[Scenario]:
    """The scenario of this name, or those of this row; none where there is neither."""
    return [s for s in SCENARIOS.values() if name in {s.name, s.row}]
