"""Leases on live replicas."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from contracts.config import Pool
from contracts.errors import ErrorCode, Refusal
from contracts.ids import new_uuid
from contracts.pools import LeaseRequest
from contracts.service.failpoints import Failpoints
from pool_managerd.domain.replica_state import Move
from pool_managerd.leasing import TURNING_MS, Leasing
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

    def __init__(self, failpoints: Failpoints) -> None:
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
        self.leasing = Leasing({"p/0": self.replica}, self.clock, self.count, failpoints)

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
    return Desk(Failpoints.none())


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


def test_a_preferred_slot_is_given_and_said_again_by_a_renewal(desk: Desk) -> None:
    """LO-POOL-070: so that a lost lease comes back to its own slot."""
    desk.serve()
    assert desk.leasing.grant(request(preferred_slot=1)).slot == 1
    other = Desk(Failpoints.none())
    other.serve()
    assert other.leasing.renew(new_uuid(), request(preferred_slot=1)).slot == 1


def test_a_request_without_a_preferred_slot_does_not_mention_one() -> None:
    assert "preferred_slot" not in request().model_dump(mode="json")
    body = request().model_dump(mode="json")
    for refused in (None, -1, 1024):
        with pytest.raises(ValidationError):
            LeaseRequest.model_validate_json(json.dumps(body | {"preferred_slot": refused}))


def test_the_tasks_that_a_death_cut_off_are_told_once(desk: Desk) -> None:
    """LO-POOL-072."""
    desk.serve()
    released, holding = new_uuid(), new_uuid()
    desk.leasing.release(desk.leasing.grant(request(task_id=released)).lease_id)
    desk.leasing.grant(request(task_id=holding))
    for _ in range(2):
        # Every change of a replica that serves nowhere voids its leases again.
        desk.leasing.void("p/0")
    assert desk.leasing.cut_off("p/0") == {released, holding}
    assert desk.leasing.cut_off("p/0") == frozenset()


def test_a_lease_can_be_made_to_fail_before_it_is_given() -> None:
    failpoints = Failpoints.parsed("pool_managerd", "lease.grant=1*error(EIO)")
    desk = Desk(failpoints)
    desk.serve()
    with pytest.raises(OSError, match="failpoint"):
        desk.leasing.grant(request())
    assert desk.leasing.used("p/0") == 0
    assert desk.leasing.grant(request()).slot == 0
    assert failpoints.reached["lease.grant", "error(EIO)"] == 1


def test_an_unhealthy_replica_keeps_its_leases_and_gives_no_new_one(desk: Desk) -> None:
    desk.serve()
    held = request()
    lease = desk.leasing.grant(held)
    desk.replica.move(Move.UNREACHABLE)
    assert desk.leasing.renew(lease.lease_id, held) == lease
    assert refusal(desk, request()).details == {"reason": "not_ready"}


@pytest.mark.anyio
async def test_leases_are_guarded_while_they_are_looked_at_and_not_after(desk: Desk) -> None:
    """LO-SYS-072."""
    assert not desk.leasing.is_turning()
    async with anyio.create_task_group() as group:
        group.start_soon(desk.leasing.expire)
        with anyio.fail_after(10):
            while not desk.leasing.is_turning():  # noqa: ASYNC110  a loop sets no event
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    desk.clock.at = TURNING_MS - 1
    assert desk.leasing.is_turning()
    desk.clock.at = TURNING_MS
    assert not desk.leasing.is_turning()
