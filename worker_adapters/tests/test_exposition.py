"""Metrics pages of an engine that means harm."""

from __future__ import annotations

import pytest

from worker_adapters.exposition import figures
from worker_adapters.triton_metrics import PENDING, Figures, read_figures

LARGE = "1.7e308"


@pytest.mark.parametrize("values", [("NaN", "NaN"), ("+Inf", "-Inf"), (LARGE, LARGE)])
def test_what_is_no_finite_number_is_not_told(values: tuple[str, str]) -> None:
    """LO-WRK-139: as an integer an endless sum would end the daemon that reads it."""
    page = "".join(f'{PENDING}{{model="{n}"}} {value}\n' for n, value in enumerate(values))
    assert figures(page.encode(), {PENDING}) == {}
    assert read_figures(page.encode()) == Figures()


def test_samples_of_one_family_add_up() -> None:
    page = b'a{b="}"} 1 1700000000\na{b="c"} 2\na_sum 9\na x\na\n'
    assert figures(page, {"a"}) == {"a": 3.0}
