"""The lease table, against a model that a person can check."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pool_managerd.domain.leases import (
    ENDED_MS,
    ENDED_REMEMBERED,
    Claim,
    Conflict,
    LeaseConflict,
    LeaseTable,
)

SLOTS = {"a/0": 3, "a/1": 1}
TTL = 1_000


def claim(
    task: str = "t1",
    epoch: int = 1,
    replica: str = "a/0",
    holder: str = "h1",
    slots: int = 2,
    preferred: int | None = None,
) -> Claim:
    return Claim(replica, task, epoch, holder, TTL, slots, preferred)


def refused(table: LeaseTable, wanted: Claim, now: int = 0) -> Conflict:
    with pytest.raises(LeaseConflict) as caught:
        table.grant(wanted, now, "refused")
    return caught.value.conflict


def test_the_same_attempt_gets_the_same_lease_and_a_new_ttl() -> None:
    """LO-POOL-051."""
    table = LeaseTable()
    first = table.grant(claim(), 0, "l1")
    again = table.grant(claim(), 900, "l2")
    assert (again.lease_id, again.slot) == ("l1", first.slot)
    assert not table.expire(1_100)
    assert table.used("a/0") == 1


def test_slots_are_given_lowest_first_and_never_twice() -> None:
    table = LeaseTable()
    assert [table.grant(claim(f"t{n}"), 0, f"l{n}").slot for n in range(2)] == [0, 1]
    assert refused(table, claim("t9")) is Conflict.NO_FREE_SLOT
    table.release("l0", 0)
    assert table.grant(claim("t9"), 0, "l9").slot == 0


def test_a_preferred_slot_is_given_where_it_is_free() -> None:
    """LO-POOL-070."""
    table = LeaseTable()
    assert table.grant(claim("t0", preferred=1), 0, "l0").slot == 1
    table.release("l0", 0)
    assert table.grant(claim("t1", preferred=1), 0, "l1").slot == 1


@pytest.mark.parametrize("preferred", [0, 2, 1023])
def test_a_preferred_slot_that_is_taken_or_missing_is_not_waited_for(preferred: int) -> None:
    """LO-POOL-070."""
    table = LeaseTable()
    table.grant(claim("t0", preferred=0), 0, "l0")
    assert table.grant(claim("t1", preferred=preferred), 0, "l1").slot == 1


def test_an_attempt_that_asks_again_keeps_its_slot_whatever_it_prefers() -> None:
    """LO-POOL-051."""
    table = LeaseTable()
    table.grant(claim("t0"), 0, "l0")
    assert table.grant(claim("t0", preferred=1), 0, "l1").slot == 0
    assert table.renew("l0", claim("t0", preferred=1), 0).slot == 0


def test_a_newer_epoch_may_prefer_another_slot_than_that_of_the_older_one() -> None:
    table = LeaseTable()
    table.grant(claim("t0"), 0, "l0")
    assert table.grant(claim("t0", epoch=2, preferred=1), 0, "l1").slot == 1
    assert table.grant(claim("t1"), 0, "l2").slot == 0


def test_a_newer_epoch_takes_the_place_and_the_slot_of_the_older_one() -> None:
    """LO-POOL-052."""
    table = LeaseTable()
    table.grant(claim("t0"), 0, "l0")
    old = table.grant(claim("t1"), 0, "l1")
    new = table.grant(claim("t1", epoch=2), 0, "l2")
    assert new.slot == old.slot
    assert table.used("a/0") == 2
    assert refused(table, claim("t1", epoch=1)) is Conflict.STALE_EPOCH


def test_a_newer_epoch_keeps_the_slot_though_a_lower_one_is_free() -> None:
    table = LeaseTable()
    table.grant(claim("t0"), 0, "l0")
    table.grant(claim("t1"), 0, "l1")
    table.release("l0", 0)
    assert table.grant(claim("t1", epoch=2), 0, "l2").slot == 1


def test_an_attempt_cannot_have_a_lease_on_two_replicas() -> None:
    table = LeaseTable()
    table.grant(claim(), 0, "l1")
    assert refused(table, claim(replica="a/1")) is Conflict.OTHER_REPLICA


def test_a_replica_that_is_not_ready_keeps_its_leases_and_gives_no_new_one() -> None:
    table = LeaseTable()
    table.grant(claim(), 0, "l1")
    assert refused(table, claim("t2", slots=0)) is Conflict.NOT_READY
    assert table.renew("l1", claim(slots=0), 500).expires_at == 1_500


def test_a_new_holder_voids_the_old_one_who_cannot_come_back() -> None:
    """LO-POOL-053."""
    table = LeaseTable()
    table.grant(claim(), 0, "l1")
    table.grant(claim("t2", holder="h2"), 0, "l2")
    assert table.used("a/0") == 1
    assert refused(table, claim("t3", holder="h1")) is Conflict.OTHER_HOLDER


def test_a_lease_ends_at_its_ttl_to_the_millisecond() -> None:
    """LO-POOL-055."""
    table = LeaseTable()
    table.grant(claim(), 0, "l1")
    assert not table.expire(TTL - 1)
    assert table.expire(TTL)
    assert table.used("a/0") == 0


def test_a_renewal_makes_a_lost_lease_again_under_its_id() -> None:
    table = LeaseTable()
    held = table.renew("l1", claim(), 0)
    assert (held.lease_id, held.slot) == ("l1", 0)
    assert table.renew("l1", claim(), 10).expires_at == 10 + TTL


def test_a_renewal_of_another_attempts_lease_is_refused() -> None:
    table = LeaseTable()
    table.grant(claim(), 0, "l1")
    for lease_id, wanted in (("l1", claim("t2")), ("l2", claim())):
        with pytest.raises(LeaseConflict) as caught:
            table.renew(lease_id, wanted, 0)
        assert caught.value.conflict is Conflict.OTHER_LEASE


def test_a_replica_that_is_gone_takes_its_leases_with_it() -> None:
    table = LeaseTable()
    table.grant(claim("t1"), 0, "l1")
    table.grant(claim("t2", replica="a/1", slots=1), 0, "l2")
    assert table.void("a/0", 0) == {"t1"}
    assert (table.used("a/0"), table.used("a/1")) == (0, 1)


def test_a_death_is_told_of_the_tasks_it_cut_off_and_of_those_that_ended_just_before() -> None:
    """LO-POOL-072: who was cut off may give its lease back before the death is seen."""
    table = LeaseTable()
    table.grant(claim("early"), 0, "l0")
    table.release("l0", 0)
    table.grant(claim("cut off"), 1, "l1")
    table.release("l1", 1)
    table.grant(claim("elsewhere", replica="a/1"), 1, "l2")
    table.release("l2", 1)
    table.grant(claim("moved"), 1, "l3")
    table.grant(claim("moved", epoch=2, replica="a/1"), 2, "l4")
    at = ENDED_MS + 1
    table.grant(claim("holds"), at, "l5")
    assert table.void("a/0", at) == {"cut off", "moved", "holds"}
    assert table.void("a/0", at) == frozenset()


def test_only_so_many_ended_leases_are_remembered() -> None:
    table = LeaseTable()
    for number in range(ENDED_REMEMBERED + 5):
        table.grant(claim(f"t{number}"), 0, f"l{number}")
        table.release(f"l{number}", 0)
    assert len(table.void("a/0", 0)) == ENDED_REMEMBERED


class Leases(RuleBasedStateMachine):
    """Whatever is asked, in whatever order, the table keeps its promises."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.table = LeaseTable()
        self.now = 0
        self.holder = 1
        self.number = 0
        self.model: dict[str, tuple[str, int, str, int, int]] = {}
        """task -> (lease id, epoch, replica, slot, expiry)"""

    @rule(elapsed=st.integers(1, 600))
    def time_passes(self, elapsed: int) -> None:
        self.now += elapsed
        self.table.expire(self.now)
        self.model = {task: row for task, row in self.model.items() if row[4] > self.now}

    @rule(
        target=held,
        task=st.sampled_from(["t1", "t2", "t3", "t4"]),
        epoch=st.integers(1, 3),
        replica=st.sampled_from(sorted(SLOTS)),
        ready=st.booleans(),
        preferred=st.none() | st.integers(0, 3),
    )
    def grant(
        self, task: str, epoch: int, replica: str, ready: bool, preferred: int | None
    ) -> object:
        self.number += 1
        slots = SLOTS[replica] if ready else 0
        wanted = Claim(replica, task, epoch, f"h{self.holder}", TTL, slots, preferred)
        before = self.model.get(task)
        conflict = self._conflict(before, wanted)
        if conflict is not None:
            assert refused(self.table, wanted, self.now) is conflict
            return multiple()
        lease = self.table.grant(wanted, self.now, f"l{self.number}")
        assert (lease.lease_id == f"l{self.number}") == (before is None or before[1] != epoch)
        assert lease.slot == self._slot(before, wanted)
        self.model[task] = (lease.lease_id, epoch, replica, lease.slot, self.now + TTL)
        return lease.lease_id

    def _conflict(
        self, before: tuple[str, int, str, int, int] | None, wanted: Claim
    ) -> Conflict | None:
        if before is not None and before[1] == wanted.epoch:
            return None if before[2] == wanted.replica_id else Conflict.OTHER_REPLICA
        if before is not None and before[1] > wanted.epoch:
            return Conflict.STALE_EPOCH
        if wanted.slots == 0:
            return Conflict.NOT_READY
        others = [
            row for row in self.model.values() if row[2] == wanted.replica_id and row is not before
        ]
        return Conflict.NO_FREE_SLOT if len(others) >= wanted.slots else None

    def _slot(self, before: tuple[str, int, str, int, int] | None, wanted: Claim) -> int:
        """Its own; else the preferred one, the one of its older epoch, or the lowest free one."""
        here = before if before is not None and before[2] == wanted.replica_id else None
        if here is not None and here[1] == wanted.epoch:
            return here[3]
        others = [row for row in self.model.values() if row is not before]
        taken = {row[3] for row in others if row[2] == wanted.replica_id}
        free = set(range(wanted.slots)) - taken
        if wanted.preferred_slot in free:
            return wanted.preferred_slot
        return here[3] if here is not None else min(free)

    @rule(lease_id=consumes(held))
    def release(self, lease_id: str) -> None:
        self.table.release(lease_id, self.now)
        self.model = {task: row for task, row in self.model.items() if row[0] != lease_id}

    @rule(replica=st.sampled_from(sorted(SLOTS)))
    def replica_dies(self, replica: str) -> None:
        holding = {task for task, row in self.model.items() if row[2] == replica}
        assert self.table.void(replica, self.now) >= holding
        self.model = {task: row for task, row in self.model.items() if row[2] != replica}

    @rule(data=st.data())
    def pool_managerd_restarts(self, data: st.DataObject) -> None:
        """Whoever renews first, everybody has the lease and the slot from before."""
        self.table = LeaseTable()
        for task, (lease_id, epoch, replica, slot, _) in data.draw(
            st.permutations(sorted(self.model.items()))
        ):
            wanted = Claim(
                replica, task, epoch, f"h{self.holder}", TTL, SLOTS[replica], preferred_slot=slot
            )
            lease = self.table.renew(lease_id, wanted, self.now)
            assert (lease.lease_id, lease.slot) == (lease_id, slot)
            self.model[task] = (lease_id, epoch, replica, slot, self.now + TTL)

    @rule()
    def orchestratord_restarts(self) -> None:
        self.holder += 1
        wanted = Claim("a/0", "t1", 1, f"h{self.holder}", TTL, 2)
        lease = self.table.grant(wanted, self.now, f"fresh{self.holder}")
        self.model = {"t1": (lease.lease_id, 1, "a/0", lease.slot, self.now + TTL)}

    @invariant()
    def usage_is_that_of_the_model_and_no_slot_is_doubled(self) -> None:
        for replica, slots in SLOTS.items():
            rows = [row for row in self.model.values() if row[2] == replica]
            assert self.table.used(replica) == len(rows) <= slots
            assert len({row[3] for row in rows}) == len(rows)
            assert all(row[3] < slots for row in rows)


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
