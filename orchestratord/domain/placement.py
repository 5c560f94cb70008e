"""Which replica gets the next task.

Most free VRAM first, then fewest active tasks, then the replica id, so that
equal replicas are told apart the same way every time.  A replica on several
cards has as much room as its tightest card.  One without a card has none, and
is taken only when no replica with a card has a free slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica as placement sees it; memory in bytes."""

    replica_id: str
    ready: bool
    slots_total: int
    active: int
    free_vram_bytes: int

    @property
    def slots_free(self) -> int:
        """Slots another task could take now; 0 unless it is ready."""
        return max(0, self.slots_total - self.active) if self.ready else 0


def choose(candidates: Iterable[Candidate]) -> Candidate | None:
    """The best replica with a free slot, or None when there is none."""
    return min(
        (candidate for candidate in candidates if candidate.slots_free > 0),
        key=lambda c: (-c.free_vram_bytes, c.active, c.replica_id),
        default=None,
    )
