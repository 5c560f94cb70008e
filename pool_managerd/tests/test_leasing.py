"""Leases on live replicas."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.config import Pool
from contracts.errors import ErrorCode, Refusal
from contracts.ids import new_uuid
from contracts.pools import LeaseRequest
from pool_managerd.domain.replica_state import Move
from pool_managerd.leasing import Leasing
from pool_managerd.replica import Endpoint, Replica, ReplicaEntry
from worker_adapters.base import Observation

HOLDER = new_uuid()


class StoppedClock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.at = 0

    def now_ms(self) -> int:
        return self.at

    def unix_ms(self) -> int:
        return self.at


class Desk:
    """One replica with two slots, ready or not."""

    def __init__(self) -> None:
        pool = Pool.model_validate(
            {
                "id": "p",
                "engine": "llamacpp",
                "model": {"id": "m", "ref": "file:/m"},
                "slots": 2,
                "provisioning": {"mode": "embedded"},
            },
            strict=False,
        )
        self.clock = StoppedClock()
        self.changes = 0
        self.replica = Replica(ReplicaEntry(pool, 0, 0), self.clock, lambda _: None)
        self.leasing = Leasing({"p/0": self.replica}, self.clock, self.count)

    def count(self) -> None:
        self.changes += 1

    def serve(self) -> None:
        self.replica.move(Move.START)
        self.replica.launched(Endpoint("http://127.0.0.1:1", "key"), 1, ())
        self.replica.move(Move.SPAWNED)
        self.replica.observed(Observation("v", 10, 4, 0, None, "m"))
        self.replica.move(Move.SERVES)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def request(**changes: Any) -> LeaseRequest:
    fields: dict[str, Any] = {
        "replica_id": "p/0",
        "task_id": new_uuid(),
        "epoch": 1,
        "ttl_ms": 1_000,
        "holder": HOLDER,
    }
    return LeaseRequest(**(fields | changes))


def refusal(desk: Desk, wanted: LeaseRequest) -> Refusal:
    with pytest.raises(Refusal) as caught:
        desk.leasing.grant(wanted)
    return caught.value


def test_a_lease_says_how_to_reach_the_engine(desk: Desk) -> None:
    desk.serve()
    lease = desk.leasing.grant(request())
    assert (lease.base_url, lease.api_key, lease.slot) == ("http://127.0.0.1:1", "key", 0)
    assert desk.leasing.used("p/0") == 1
    assert desk.changes == 1


def test_a_replica_that_is_not_ready_gives_no_lease(desk: Desk) -> None:
    """LO-POOL-057."""
    refused = refusal(desk, request())
    assert refused.code is ErrorCode.CONFLICT
    assert refused.details == {"reason": "not_ready"}


def test_no_more_leases_than_configured_slots_are_given(desk: Desk) -> None:
    """LO-POOL-050: the engine has four slots, and the configuration says two."""
    desk.serve()
    for _ in range(2):
        desk.leasing.grant(request())
    assert refusal(desk, request()).details == {"reason": "no_free_slot"}


def test_an_unknown_replica_is_not_found(desk: Desk) -> None:
    assert refusal(desk, request(replica_id="p/7")).code is ErrorCode.NOT_FOUND


def test_releasing_what_is_not_held_succeeds(desk: Desk) -> None:
    """LO-POOL-056."""
    desk.leasing.release(new_uuid())


def test_a_renewal_of_a_lost_lease_gives_it_back(desk: Desk) -> None:
    """LO-POOL-054."""
    desk.serve()
    lease_id = new_uuid()
    assert desk.leasing.renew(lease_id, request()).lease_id == lease_id


def test_an_unhealthy_replica_keeps_its_leases_and_gives_no_new_one(desk: Desk) -> None:
    desk.serve()
    held = request()
    lease = desk.leasing.grant(held)
    desk.replica.move(Move.UNREACHABLE)
    assert desk.leasing.renew(lease.lease_id, held) == lease
    assert refusal(desk, request()).details == {"reason": "not_ready"}
