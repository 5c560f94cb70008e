"""Everything that was seen around one haiku: what a checker judges, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from test_harness.task_client import Event

MINUTES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty")
Counters = dict[str, float]
"""A metric by its name; summed over the replica's series."""


@dataclass(frozen=True)
class Process:
    """One process of the engine that answered."""

    executable: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What was asked, what came, and what everybody says of it."""

    minute: str
    """The minute of the asking, in words."""
    nonce: str
    """A word made up for this one prompt."""
    events: tuple[Event, ...]
    task: dict[str, Any]
    """GET of the task after its end."""
    file_digest: str
    """sha256 of the operator's file, computed here."""
    before: Counters
    after: Counters
    """Of orchestratord, for the replica that served."""
    leases_during: float
    leases_after: float
    """`active_leases` of pool_managerd for the replica, once it started and after the end."""
    prompt_tokens: int
    """What the engine's own tokenizer makes of the prompt."""
    processes: tuple[Process, ...]


def minute_words(minute: int) -> str:
    """0 to 59 as a person says it."""
    if minute < len(MINUTES):
        return MINUTES[minute]
    tens, ones = divmod(minute, 10)
    return TENS[tens] + (f"-{MINUTES[ones]}" if ones else "")
