"""Every scenario at its short scale, and each of them in the table of promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from test_harness.chaos.catalogue import SCENARIOS
from test_harness.chaos.scenario import Missing, Scenario, perform

SEED = 7
TABLE = Path(__file__).parents[3] / ".specs" / "faults.md"


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_promise_holds_under_its_fault(tmp_path: Path, scenario: Scenario) -> None:
    """`.specs/faults.md` names the requirements beside each scenario."""
    try:
        outcome = perform(scenario, tmp_path, SEED, full=False)
    except Missing as missing:
        pytest.skip(str(missing))
    assert not outcome.broken


def test_the_table_of_promises_lists_every_scenario() -> None:
    """Nothing is played that is not promised, and nothing promised that is not played."""
    found = re.findall(r"^\| ([DPQS]-\d+) \| `(\w+)` \|", TABLE.read_text("utf-8"), re.MULTILINE)
    assert {(s.row, s.name) for s in SCENARIOS.values()} <= set(found)
    assert {name for _, name in found} == set(SCENARIOS)
