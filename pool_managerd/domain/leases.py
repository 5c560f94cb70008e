"""Who may use which slot.

A lease is the right of one attempt, (task, epoch), to one slot of one replica,
until it expires or is released.  The rules:

- A slot is under at most one lease, and a replica gives no more than its slots.
- The same (task, epoch) asked twice is the same lease: a lost answer is safe to
  ask again.  It cannot move to another replica; a new attempt has a new epoch.
- A newer epoch of a task takes the place of the older one.  An older epoch than
  one that is held is refused, so that a late message revives nothing.
- All leases belong to one holder, a start of orchestratord.  A new holder voids
  the leases of the old one, who is refused from then on.
- A renewal says everything again and re-creates a lease that a restart of this
  daemon has lost, if its replica serves and has a slot.
- Where the engine's cache is warm goes first: the slot that a claim prefers, then
  the one its task has on this replica.  One that is not free is not waited for,
  the lowest free one is given.

Time is monotonic ms and comes in as `now`; lease ids come in too.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

HOLDERS_REMEMBERED = 64
ENDED_REMEMBERED = 1024
ENDED_MS = 5_000
"""A process that dies closes its connections first and may take seconds over its memory: by the
time its end is seen, the leases that it cut off may have been given back."""


class Conflict(StrEnum):
    """Why a lease is refused."""

    NOT_READY = "not_ready"
    NO_FREE_SLOT = "no_free_slot"
    STALE_EPOCH = "stale_epoch"
    OTHER_REPLICA = "other_replica"
    OTHER_LEASE = "other_lease"
    OTHER_HOLDER = "other_holder"


class LeaseConflict(Exception):
    """The lease cannot be given; nothing was changed but what had expired."""

    def __init__(self, conflict: Conflict, message: str) -> None:
        super().__init__(message)
        self.conflict = conflict


@dataclass(frozen=True, slots=True)
class Claim:
    """What is asked for; `slots` is how many the replica serves now, 0 when not ready."""

    replica_id: str
    task_id: str
    epoch: int
    holder: str
    ttl_ms: int
    slots: int
    preferred_slot: int | None = None
    idle_ms: int | None = None
    """Since its task last moved; None: not told."""


@dataclass(slots=True)
class HeldLease:
    """A slot under a lease until `expires_at`; `progressed_at`: when its task last moved."""

    lease_id: str
    replica_id: str
    task_id: str
    epoch: int
    slot: int
    expires_at: int
    granted_at: int
    progressed_at: int | None = None
    told_at: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What runs on a replica under leases, when any of it last moved, and when that was told."""

    leases: int
    progressed_at: int | None
    told_at: int | None


@dataclass(frozen=True, slots=True)
class _Ended:
    """A lease that was."""

    replica_id: str
    task_id: str
    at: int


class LeaseTable:
    """Every lease there is; at most one per task, so at most one per slot asked for."""

    def __init__(self) -> None:
        self._by_id: dict[str, HeldLease] = {}
        self._by_task: dict[str, HeldLease] = {}
        self._holder: str | None = None
        self._former: deque[str] = deque(maxlen=HOLDERS_REMEMBERED)
        self._ended: deque[_Ended] = deque(maxlen=ENDED_REMEMBERED)
        self._slot_used_at: dict[tuple[str, int], int] = {}

    def grant(self, claim: Claim, now: int, lease_id: str) -> HeldLease:
        """A lease for the claim, under `lease_id` unless it is held already.

        Raises:
            LeaseConflict: with the rule that forbids it.
        """
        self.expire(now)
        self._recognise(claim.holder)
        held = self._by_task.get(claim.task_id)
        if held is not None and held.epoch == claim.epoch:
            return self._extended(held, claim, now)
        return self._created(claim, now, lease_id)

    def renew(self, lease_id: str, claim: Claim, now: int) -> HeldLease:
        """The lease `lease_id` for another TTL, made again if it is not known.

        Raises:
            LeaseConflict: with the rule that forbids it.
        """
        self.expire(now)
        self._recognise(claim.holder)
        held = self._by_id.get(lease_id)
        if held is not None:
            if (held.task_id, held.epoch) != (claim.task_id, claim.epoch):
                raise LeaseConflict(Conflict.OTHER_LEASE, "this lease is of another attempt")
            return self._extended(held, claim, now)
        other = self._by_task.get(claim.task_id)
        if other is not None and other.epoch == claim.epoch:
            raise LeaseConflict(Conflict.OTHER_LEASE, "this attempt has another lease")
        return self._created(claim, now, lease_id)

    def release(self, lease_id: str, now: int) -> HeldLease | None:
        """Give the slot back; None: a lease that is not known is released already."""
        held = self._by_id.get(lease_id)
        if held is not None:
            self._drop(held, now)
        return held

    def expire(self, now: int) -> bool:
        """Drop what was not renewed in time; True when there was any."""
        doomed = [held for held in self._by_id.values() if held.expires_at <= now]
        for held in doomed:
            self._drop(held, now)
        return bool(doomed)

    def void(self, replica_id: str, now: int) -> frozenset[str]:
        """Drop the leases of a replica that is gone.

        Returns the tasks that held them, and those whose lease on it ended just
        before; each once.
        """
        for held in self._on(replica_id):
            self._drop(held, now)
        for key in [key for key in self._slot_used_at if key[0] == replica_id]:
            del self._slot_used_at[key]
        here = [ended for ended in self._ended if ended.replica_id == replica_id]
        elsewhere = (ended for ended in self._ended if ended.replica_id != replica_id)
        self._ended = deque(elsewhere, maxlen=ENDED_REMEMBERED)
        return frozenset(ended.task_id for ended in here if now - ended.at <= ENDED_MS)

    def used(self, replica_id: str) -> int:
        """Slots of the replica under a lease."""
        return len(self._on(replica_id))

    def work(self, replica_id: str) -> Work:
        """What runs on the replica."""
        here = self._on(replica_id)
        progressed = [held.progressed_at for held in here if held.progressed_at is not None]
        told = [held.told_at for held in here if held.told_at is not None]
        return Work(len(here), max(progressed, default=None), max(told, default=None))

    def coldest_slot(self, replica_id: str, slots: int) -> int | None:
        """The free slot that was leased least lately; None where all are taken."""
        taken = {held.slot for held in self._on(replica_id)}
        free = [slot for slot in range(slots) if slot not in taken]
        return min(free, key=lambda s: self._slot_used_at.get((replica_id, s), -1), default=None)

    def _on(self, replica_id: str) -> list[HeldLease]:
        """The leases on a replica."""
        return [held for held in self._by_id.values() if held.replica_id == replica_id]

    def _recognise(self, holder: str) -> None:
        if holder == self._holder:
            return
        if holder in self._former:
            raise LeaseConflict(Conflict.OTHER_HOLDER, "a newer orchestratord holds the leases now")
        if self._holder is not None:
            self._former.append(self._holder)
            self._by_id.clear()
            self._by_task.clear()
        self._holder = holder

    def _extended(self, held: HeldLease, claim: Claim, now: int) -> HeldLease:
        if held.replica_id != claim.replica_id:
            raise LeaseConflict(
                Conflict.OTHER_REPLICA, f"this attempt has a lease on {held.replica_id}"
            )
        held.expires_at = now + claim.ttl_ms
        _note_progress(held, claim, now)
        return held

    def _created(self, claim: Claim, now: int, lease_id: str) -> HeldLease:
        older = self._by_task.get(claim.task_id)
        if older is not None and older.epoch > claim.epoch:
            raise LeaseConflict(
                Conflict.STALE_EPOCH, f"epoch {older.epoch} of this task holds a lease"
            )
        if claim.slots == 0:
            raise LeaseConflict(Conflict.NOT_READY, f"{claim.replica_id} is not ready")
        slot = self._slot_for(claim, older)
        if older is not None:
            self._drop(older, now)
        held = HeldLease(
            lease_id, claim.replica_id, claim.task_id, claim.epoch, slot, now + claim.ttl_ms, now
        )
        self._slot_used_at[held.replica_id, slot] = now
        self._by_id[lease_id] = self._by_task[claim.task_id] = held
        return held

    def _slot_for(self, claim: Claim, older: HeldLease | None) -> int:
        here = self._on(claim.replica_id)
        taken = {h.slot for h in here if h is not older}
        free = [slot for slot in range(claim.slots) if slot not in taken]
        kept = older.slot if older in here else None
        for slot in (claim.preferred_slot, kept, *free):
            if slot in free:
                return slot
        raise LeaseConflict(
            Conflict.NO_FREE_SLOT, f"all {claim.slots} slots of {claim.replica_id} are leased"
        )

    def _drop(self, held: HeldLease, now: int) -> None:
        self._slot_used_at[held.replica_id, held.slot] = now
        self._ended.append(_Ended(held.replica_id, held.task_id, now))
        del self._by_id[held.lease_id]
        del self._by_task[held.task_id]


def _note_progress(held: HeldLease, claim: Claim, now: int) -> None:
    """A task that is idle since it began has shown no progress yet."""
    if claim.idle_ms is None:
        return
    held.told_at = now
    if now - claim.idle_ms > held.granted_at:
        held.progressed_at = now - claim.idle_ms
