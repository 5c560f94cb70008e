"""Tables as wide as what they hold, without a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table


def headed(*headings: str) -> Table:
    """An empty table under `headings`."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="ignore")
    return table


def of_rows(rows: Sequence[Mapping[str, str]]) -> Table:
    """Cells by heading; a column that holds nothing is left out."""
    headings = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    table = headed(*headings)
    for row in rows:
        table.add_row(*(row[name] for name in headings))
    return table


def of_facts() -> Table:
    """An empty table of names and values."""
    return Table(box=None, pad_edge=False, show_header=False)
