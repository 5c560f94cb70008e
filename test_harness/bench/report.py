"""Figures and the tables they are shown in."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One thing measured: the middle of its samples, and how far they lie apart."""

    name: str
    median: float
    low: float
    high: float
    unit: str
    aim: str | None = None
    """What was hoped for; nothing is asserted."""

    @classmethod
    def of(cls, name: str, samples: Sequence[float], unit: str, aim: str | None = None) -> Figure:
        """The figure of at least one sample."""
        return cls(name, statistics.median(samples), min(samples), max(samples), unit, aim)


@dataclass(frozen=True)
class Answer:
    """A question and its figures."""

    question: str
    measured_how: str
    figures: tuple[Figure, ...]


def percentile(samples: Iterable[float], share: float) -> float:
    """The sample below which `share` (0 to 1) of the others lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(answer: Answer, console: Console) -> None:
    """One table."""
    table = Table(
        title=answer.question, caption=answer.measured_how, title_justify="left", min_width=72
    )
    table.add_column("figure")
    for column in ("median", "lowest", "highest"):
        table.add_column(column, justify="right")
    table.add_column("unit")
    table.add_column("aim")
    for figure in answer.figures:
        values = [_number(value) for value in (figure.median, figure.low, figure.high)]
        table.add_row(figure.name, *values, figure.unit, figure.aim or "")
    console.print(table)


def as_json(answers: Iterable[Answer], machine: dict[str, object]) -> str:
    """Everything, for a script."""
    return json.dumps({"machine": machine, "answers": [asdict(answer) for answer in answers]})


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
