"""How a task looks while it waits, runs and ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.tasks import Admission
from llama_orch.display import TextDisplay
from llama_orch.event_stream import Event
from llama_orch.output import Output, duration, number, printable
from llama_orch.tests.test_figures import BUDGETS, END

TASK = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
STARTED = {"replica_id": "chat/0", "engine_version": "b1", "attempt": 1}


def admission(**fields: Any) -> Admission:
    known = {
        "task_id": TASK,
        "state": "queued",
        "queue_position": 3,
        "predicted_start_ms": 4200,
        "backoff_ms": 0,
        "stream_url": "/",
    }
    return Admission.model_validate_json(json.dumps(known | fields))


class Shown:
    """A display without a terminal whose clock is moved by hand, one event a second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.display = TextDisplay(Output(), clock=lambda: self.now)

    def metrics(self, **data: Any) -> None:
        self.now += 1
        self.event("metrics", **data)

    def event(self, name: str, **data: Any) -> None:
        self.display.event(Event(1, name, data))


def test_the_predicted_start_stands_beside_the_place(capsys: pytest.CaptureFixture[str]) -> None:
    """LO-CMD-034."""
    shown = Shown()
    shown.display.admitted(admission())
    assert capsys.readouterr().err == (
        f"task {TASK}\nqueued, 3 tasks ahead, starts in about 4.2 s\n"
    )


def test_a_task_that_runs_is_not_said_to_wait(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown()
    shown.display.admitted(admission(state="running", queue_position=None, predicted_start_ms=None))
    assert "queued" not in capsys.readouterr().err


def test_without_a_terminal_a_countdown_is_not_a_line_a_second(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """LO-CMD-035."""
    shown = Shown()
    for second in range(60):
        shown.metrics(queue_position=3, predicted_start_ms=1000 * (60 - second))
    shown.metrics(queue_position=2, predicted_start_ms=500)
    assert capsys.readouterr().err.split("\n")[:-1] == [
        "queued, 3 tasks ahead, starts in about 1.0 min",
        "queued, 2 tasks ahead, starts in less than a second",
    ]


def test_a_task_that_waits_again_is_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown()
    shown.metrics(queue_position=0)
    shown.event("started", **STARTED)
    shown.metrics(queue_position=0)
    lines = capsys.readouterr().err.split("\n")[:-1]
    assert [line.split(",")[0] for line in lines] == ["queued", "started on chat/0", "queued"]


def test_the_newest_share_of_the_cache_and_the_budgets_end_the_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """LO-CMD-037."""
    shown = Shown()
    shown.event("started", **STARTED)
    shown.metrics(kv_warmth=0.1, on_time_probability=1.0)
    shown.metrics(kv_warmth=0.75, on_time_probability=1.0)
    shown.event("end", **END, budgets=BUDGETS)
    last = capsys.readouterr().err.split("\n")[-2]
    assert ", 75% in the cache · stop · session: 812 of 2,000 tokens left" in last


@pytest.mark.parametrize("strange", [None, "0.5", [], True, float("nan"), float("inf"), 10**400])
def test_figures_that_are_no_numbers_do_not_break_the_display(
    strange: object, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Shown()
    shown.metrics(queue_position=strange, predicted_start_ms=strange, on_time_probability=strange)
    shown.metrics(kv_warmth=strange)
    shown.event("end", **END)
    assert capsys.readouterr().err.startswith("queued, waiting for a slot\n101 tokens")
    assert number(strange) is None


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (None, "–"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (90_000, "1.5 min"),
        (5_400_000, "1.5 h"),
    ],
)
def test_a_duration_is_said_in_its_unit(milliseconds: float | None, words: str) -> None:
    assert duration(milliseconds) == words


def test_only_control_characters_are_replaced() -> None:
    """LO-CMD-014."""
    text = "tab\t line\n é 漢 😀 \u2028 \u200d"
    assert printable(text) == text
    assert printable("\x1b]0;x\x07\r\x9b\x7f") == "\ufffd]0;x\ufffd\ufffd\ufffd\ufffd"


def test_an_engine_that_tells_no_version_is_named_by_its_kind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = Shown()
    shown.event("started", **STARTED | {"engine": "openai", "engine_version": None})
    assert "started on chat/0, openai, reading" in capsys.readouterr().err
