"""An embedding or a ranking as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llama_orch.output import number, printable
from llama_orch.tables import headed

VALUES_SHOWN = 6


def result_of(result: object, inputs: Sequence[str] = ()) -> RenderableType | None:
    """The `result` of a task as a table; None where it is none.

    `inputs` are those of the request, where they are known.
    """
    if not isinstance(result, dict):
        return None
    if isinstance(result.get("embeddings"), list):
        return _vectors(result["embeddings"])
    if isinstance(result.get("ranking"), list):
        return _ranking(result["ranking"], inputs[1:])
    return None


def _vectors(vectors: list[object]) -> Group:
    """How many numbers each has, and the first of them."""
    lines = []
    for index, vector in enumerate(vectors):
        values = vector if isinstance(vector, list) else []
        shown = ", ".join(_figure(value) for value in values[:VALUES_SHOWN])
        more = ", …" if len(values) > VALUES_SHOWN else ""
        lines.append(Text(f"{index}: {len(values)} dimensions  [{shown}{more}]"))
    return Group(*lines)


def _ranking(ranking: list[object], documents: Sequence[str]) -> Table:
    """One row per document, best first."""
    table = headed("RANK", "DOCUMENT", "SCORE", "TEXT")
    for place, found in enumerate(ranking, start=1):
        entry = found if isinstance(found, dict) else {}
        index = entry.get("index")
        known = isinstance(index, int) and 0 <= index < len(documents)
        text = " ".join(documents[index].split())[:80] if known and isinstance(index, int) else ""
        table.add_row(
            str(place), printable(str(index)), _figure(entry.get("score")), printable(text)
        )
    return table


def _figure(value: object) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.6g}"
