"""One change of a pool from what it serves to something else: whole, or not at all.

Each replica in turn is exchanged for a new one:

    where there is room for both:   start the new one -> it serves -> drain the old
                                    one -> probation -> end the old one
    where there is not:             drain and end the old one -> start the new one
                                    -> it serves -> probation

A new replica is on trial: its first failure, until its probation is over, undoes
the change.  The old one of its entry takes work again, or is started again, and the
replicas that were exchanged already are exchanged back.  No lease is given on a
replica that drains, and none that runs is cut before its time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import anyio

from contracts.config import Pool
from contracts.pools import FailureReason
from pool_managerd.clock import Clock
from pool_managerd.domain.replica_state import SERVING
from pool_managerd.fleet import Fleet
from pool_managerd.leasing import Leasing
from pool_managerd.replica import Replica, ReplicaEntry
from pool_managerd.supervisor import Supervisor

CUT_GRACE_S = 2.0
"""Past the cut, for whoever leased a slot to end its task by itself."""


class ExchangeFailed(Exception):
    """The new replica does not serve; the old one of its entry does, or is coming up."""


class NotRestored(ExchangeFailed):
    """Nor could the old one be brought to serve."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The bounds of one change.

    A new replica must serve within `start_s`; what runs on the old one is cut
    `cut_ms` after it began to drain.
    """

    start_s: float
    cut_ms: int
    probation_s: float


class Changeover:
    """Exchanges the replicas of one pool.

    Args:
        members: the entry's index -> the replica that serves it; kept up to date.
        has_room: whether one more replica of an entry fits beside what runs.
        tell: says in words what is being done.
    """

    def __init__(
        self,
        fleet: Fleet,
        leasing: Leasing,
        clock: Clock,
        members: dict[int, str],
        terms: Terms,
        has_room: Callable[[ReplicaEntry], Awaitable[bool]],
        tell: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._leasing = leasing
        self._clock = clock
        self._members = members
        self._terms = terms
        self._has_room = has_room
        self._tell = tell

    async def run(self, target: Pool, *, every: bool = False) -> None:
        """Exchange every replica whose launch differs in `target`, or `every` one.

        Where all are exchanged the new ones need not be alike to the old ones: the file
        or the engine may be another by now.  Where some stay the new ones must be.

        Raises:
            ExchangeFailed: all is as it was; `NotRestored`: not all.
        """
        entries = {index: self._member(index).replica.entry for index in sorted(self._members)}
        differing = {
            index: old
            for index, old in entries.items()
            if every or replace(old, pool=target).fingerprint != old.fingerprint
        }
        generation = max((old.generation for old in entries.values()), default=0)
        if len(differing) == len(entries):
            generation += 1
        before: dict[int, ReplicaEntry] = {}
        try:
            for index, old in differing.items():
                await self._exchange(index, target, generation)
                before[index] = old
        except ExchangeFailed:
            await self._exchange_back(before)
            raise

    async def _exchange_back(self, before: dict[int, ReplicaEntry]) -> None:
        failed: ExchangeFailed | None = None
        for index, old in before.items():
            try:
                await self._exchange(index, old.pool, old.generation)
            except ExchangeFailed as error:
                failed = error
                await self._put_back(index, old)
        if failed is not None:
            raise NotRestored(f"and the old model does not serve again: {failed}") from failed

    async def _put_back(self, index: int, old: ReplicaEntry) -> None:
        """Have an entry kept as it was, although it does not serve so now.

        The new one of it could: but some of the old ones serve, and a pool whose
        replicas differ is worse than one that lacks one of them.
        """
        new = self._member(index)
        await self._retire(new)
        entry = replace(old, number=new.replica.entry.number)
        self._fleet.add(entry)
        self._members[index] = entry.replica_id

    async def _exchange(self, index: int, target: Pool, generation: int) -> None:
        old = self._member(index)
        number = self._fleet.free_number(target.id, index, len(target.replicas))
        wanted = replace(old.replica.entry, pool=target, generation=generation)
        entry = replace(wanted, number=number)
        beside = old.replica.state in SERVING and await self._has_room(entry)
        if beside:
            try:
                await self._exchange_beside(index, old, entry)
            except _NoRoom:
                self._tell("there is no room for both; the old one is ended first")
                beside = False
        if not beside:
            await self._exchange_in_place(old, wanted)

    async def _exchange_beside(self, index: int, old: Supervisor, entry: ReplicaEntry) -> None:
        self._tell(f"{entry.replica_id} is starting beside {old.replica.entry.replica_id}")
        new = self._fleet.add(entry, on_trial=True)
        try:
            await self._until_serving(new)
            self._drain(old)
            await self._on_probation(new)
        except ExchangeFailed:
            await self._fleet.remove(entry.replica_id)
            old.replica.resume()
            raise
        await self._retire(old)
        self._members[index] = entry.replica_id
        _accept(new)

    async def _exchange_in_place(self, old: Supervisor, entry: ReplicaEntry) -> None:
        before = old.replica.entry
        await self._retire(old)
        self._tell(f"{entry.replica_id} is starting in the place of the old one")
        new = self._fleet.add(entry, on_trial=True)
        try:
            await self._until_serving(new)
            await self._on_probation(new)
        except ExchangeFailed:
            await self._fleet.remove(entry.replica_id)
            await self._bring_back(before)
            raise
        _accept(new)

    async def _bring_back(self, entry: ReplicaEntry) -> None:
        self._tell("the old model is starting again")
        old = self._fleet.add(entry)
        with anyio.move_on_after(self._terms.start_s):
            await old.settled()
        if old.replica.state not in SERVING:
            raise NotRestored(f"and the old model does not serve again: {_why(old.replica)}")

    async def _until_serving(self, new: Supervisor) -> None:
        with anyio.move_on_after(self._terms.start_s):
            await new.settled()
        if new.replica.state in SERVING:
            return
        error = new.replica.last_error
        if error is not None and error.reason is FailureReason.INSUFFICIENT_VRAM:
            raise _NoRoom(error.message)
        if error is None:
            raise ExchangeFailed(f"it did not serve within {self._terms.start_s:g} s")
        raise ExchangeFailed(error.message)

    async def _on_probation(self, new: Supervisor) -> None:
        self._tell(f"{new.replica.entry.replica_id} serves, and is on probation")
        with anyio.move_on_after(self._terms.probation_s):
            await new.failed()
            raise ExchangeFailed(f"it served, and then failed: {_why(new.replica)}")

    async def _retire(self, old: Supervisor) -> None:
        """Drain and end a replica; what still runs when its time is up is cut."""
        replica_id = old.replica.entry.replica_id
        cut_at_ms = old.replica.cut_at_ms or self._drain(old)
        self._tell(f"{replica_id} finishes what runs on it")
        left_s = (cut_at_ms - self._clock.unix_ms()) / 1000
        with anyio.move_on_after(max(0.0, left_s) + CUT_GRACE_S):
            await self._leasing.until_idle(replica_id)
        self._leasing.cut(replica_id)
        await self._fleet.remove(replica_id)

    def _drain(self, old: Supervisor) -> int:
        cut_at_ms = self._clock.unix_ms() + self._terms.cut_ms
        old.replica.drain(cut_at_ms)
        return cut_at_ms

    def _member(self, index: int) -> Supervisor:
        return self._fleet.supervisor(self._members[index])


class _NoRoom(ExchangeFailed):
    """It does not fit beside what runs."""


def _accept(new: Supervisor) -> None:
    """Its trial is over: from now on it is started again like any other."""
    new.on_trial = False
    new.retry()


def _why(replica: Replica) -> str:
    return "it is not ready" if replica.last_error is None else replica.last_error.message
