"""Cards that are numbers in a file, which a test moves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GIB = 2**30
SIZES = (24 * GIB, 12 * GIB)
SAMPLE_MS = 50


def two_cards(root: Path, names: Sequence[str]) -> dict[str, Any]:
    """A section `gpus` of a card of 24 GB and one of 12 GB, empty for now."""
    write_cards(root, dict.fromkeys(names, 0))
    return {
        "source": "file",
        "file": str(root / "cards.json"),
        "sample_ms": SAMPLE_MS,
        "reserve_bytes": 0,
    }


def write_cards(root: Path, used: Mapping[str, int]) -> None:
    """Say how much of each card is in use, all at once: the file is replaced."""
    devices = [
        {"index": index, "uuid": name, "name": "a card", "total_bytes": size, "used_bytes": taken}
        for index, (size, (name, taken)) in enumerate(zip(SIZES, used.items(), strict=True))
    ]
    new = root / "cards.json.new"
    new.write_text(json.dumps({"devices": devices}))
    new.replace(root / "cards.json")


def free_of(used: Mapping[str, int]) -> dict[str, int]:
    """What each card has left."""
    return {name: size - taken for size, (name, taken) in zip(SIZES, used.items(), strict=True)}
