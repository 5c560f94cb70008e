"""Figures out of a Prometheus text page: the few that are wanted, and no more is parsed.

A page of an engine holds hundreds of histogram buckets, and is read every few
seconds.  Source of the format: Prometheus, "Text-based format", version 0.0.4.
"""

from __future__ import annotations

import math
from collections.abc import Collection


def figures(page: bytes, names: Collection[str]) -> dict[str, float]:
    """The sum over all label sets of each wanted family that the page has.

    What is no finite number is left out: engines write NaN where nothing was measured
    yet, and the sum of two large numbers is none either.
    """
    found: dict[str, float] = {}
    for line in page.decode("utf-8", "replace").split("\n"):
        name, labelled, rest = line.partition("{")
        if labelled:
            # A label's value may hold a brace, but no number follows one.
            rest = rest.rpartition("}")[2]
        else:
            name, _, rest = line.partition(" ")
        if name not in names:
            continue
        value = _number(rest)
        if value is not None:
            found[name] = found.get(name, 0.0) + value
    return {name: total for name, total in found.items() if math.isfinite(total)}


def _number(text: str) -> float | None:
    """The value of a sample; a timestamp may follow it."""
    try:
        value = float(text.split()[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None
