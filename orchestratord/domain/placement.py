"""Which replica gets the next task.

Where the task's session has its cache, if a slot is free there.  Else most free
VRAM first, then fewest active tasks, then the replica id, so that equal replicas
are told apart the same way every time.  A replica on several cards has as much
room as its tightest card.  One without a card has none, and is taken only when
no replica with a card has a free slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica as placement and prediction see it; memory in bytes.

    `ready_in_ms` is when it is expected to serve: 0 where it does, None where
    nobody knows.
    """

    replica_id: str
    ready: bool
    slots_total: int
    free_vram_bytes: int
    ready_in_ms: float | None = None


def choose(
    candidates: Iterable[Candidate], active: Mapping[str, int], preferred: str | None = None
) -> Candidate | None:
    """The best ready replica with a free slot, or None when there is none.

    Args:
        active: slots of each replica that hold a task; 0 where it is not named.
        preferred: taken before all others, if it has a free slot.
    """
    best: Candidate | None = None
    best_key: tuple[bool, int, int, str] | None = None
    for candidate in candidates:
        taken = active.get(candidate.replica_id, 0)
        if not candidate.ready or taken >= candidate.slots_total:
            continue
        away = candidate.replica_id != preferred
        key = (away, -candidate.free_vram_bytes, taken, candidate.replica_id)
        if best_key is None or key < best_key:
            best, best_key = candidate, key
    return best
