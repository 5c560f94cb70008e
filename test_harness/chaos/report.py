"""What became of each scenario, as a table and for a script."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.table import Table

from test_harness.chaos.figures import Bounded, Figures


@dataclass
class Verdict:
    """Of one scenario; `failures` is empty where its promise held."""

    row: str
    name: str
    promise: str
    seed: int
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    missing: str | None = None
    """What this machine lacks, where it could not be played."""

    @property
    def word(self) -> str:
        """In one word."""
        if self.missing:
            return "SKIPPED"
        return "BROKEN" if self.failures else "held"


def show(verdict: Verdict, console: Console) -> None:
    """One table: figure, measured, bound, verdict."""
    heading = f"{verdict.row} {verdict.promise}: {verdict.word}"
    table = Table(
        title=heading,
        caption=f"{verdict.name}, seed {verdict.seed}, {verdict.seconds:.1f} s",
        title_justify="left",
        min_width=72,
    )
    table.add_column("figure")
    for column in ("measured", "bound", ""):
        table.add_column(column, justify="right")
    for name, figure in verdict.figures.items():
        if isinstance(figure, Bounded):
            word = "held" if figure.held else "BROKEN"
            table.add_row(name, _number(figure.value), figure.bound, word)
        else:
            table.add_row(name, _number(figure), "", "")
    for line in [verdict.missing] if verdict.missing else verdict.failures:
        table.add_row(line, "", "", "")
    console.print(table)


def as_json(verdicts: Iterable[Verdict]) -> str:
    """Everything, for a script."""
    return json.dumps([asdict(verdict) | {"verdict": verdict.word} for verdict in verdicts])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
