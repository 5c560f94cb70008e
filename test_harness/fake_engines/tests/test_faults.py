"""The list of faults."""

from __future__ import annotations

import pytest

from test_harness.fake_engines.faults import Faults


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("ignore-term", ("ignore-term", 0)),
        ("slow-start-700", ("slow-start", 700)),
        ("split-utf8", ("split-utf8", 0)),
        ("slice-1", ("slice", 1)),
        ("bad-json", ("bad-json", 0)),
        ("bad-json-3", ("bad-json", 3)),
    ],
)
def test_a_fault_is_a_name_and_perhaps_a_number(name: str, fault: tuple[str, int]) -> None:
    assert list(Faults.named([name]).items()) == [fault]


@pytest.mark.parametrize("name", ["ignore-trem", "slice", "ignore-term-3", "hang-after", "-1", ""])
def test_a_fault_that_is_not_on_the_list_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is no fault"):
        Faults.named([name])


def test_a_prompt_adds_its_own_faults_to_those_of_the_process() -> None:
    faults = Faults.named(["poison"])
    assert faults.with_those_of(["say", "fault=bom", "fault=slice-2"]) == {
        "poison": 0,
        "bom": 0,
        "slice": 2,
    }
    assert faults.with_those_of(["no", "faults"]) is faults
