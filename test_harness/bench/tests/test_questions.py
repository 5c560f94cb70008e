"""Every question can be answered: at a tiny scale, without a look at the times."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from test_harness.bench import accepts, open_streams, prediction, queue_length, restart
from test_harness.bench.queue_length import Effort
from test_harness.bench.report import Answer

pytestmark = pytest.mark.slow

QUESTIONS: dict[str, Callable[[Path, int], Answer]] = {
    "accepts": partial(accepts.compare, tasks=64, alone=4),
    "restart": partial(restart.compare, tasks=40),
    "open-streams": partial(open_streams.compare, streams=8, settle_s=0.0, window_s=2.5),
    "queue-length": partial(queue_length.compare, lengths=(10, 40), effort=Effort(32, 0.5)),
    "prediction": partial(prediction.compare, tasks=26),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_answered_with_figures(name: str, tmp_path: Path) -> None:
    answer = QUESTIONS[name](tmp_path, 1)
    assert all(figure.low <= figure.median <= figure.high for figure in answer.figures)
    exact = {figure.name: figure.median for figure in answer.figures if figure.aim == "0"}
    assert not any(exact.values()), "nothing is lost, ends early or changes its place"
