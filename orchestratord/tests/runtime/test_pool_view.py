"""What placement is told of the replicas: LO-ORC-030, LO-ORC-032."""

from __future__ import annotations

import pytest

from contracts.pools import DeviceView, ReplicaState
from orchestratord.domain.placement import choose
from orchestratord.runtime.pool_view import DISTRUST_S, PoolsView
from orchestratord.tests.builders import GIB, device, pool_view, replica, snapshot

CARDS = (device("big", 24, 4), device("small", 12, 1))


def view_of(
    *replicas: tuple[str, ...],
    devices: tuple[DeviceView, ...] = CARDS,
    reserve_bytes: int = 0,
) -> PoolsView:
    pools = PoolsView(reserve_bytes)
    masked = (replica(number, devices=mask) for number, mask in enumerate(replicas))
    pools.update(snapshot(pool_view(*masked), devices=devices), 0.0, 0)
    return pools


def free_gib(pools: PoolsView) -> list[float]:
    return [c.free_vram_bytes / GIB for c in pools.candidates(0)["chat"]]


def test_free_memory_is_that_of_the_tightest_card() -> None:
    assert free_gib(view_of(("big",), ("small",), ("big", "small"), ())) == [20, 11, 11, 0]


def test_the_reserve_of_a_card_is_nobodys_to_take() -> None:
    """LO-ORC-032."""
    masks = (("big",), ("small",), ("big", "small"))
    assert free_gib(view_of(*masks, reserve_bytes=2 * GIB)) == [18, 9, 9]
    assert free_gib(view_of(*masks, reserve_bytes=15 * GIB)) == [5, 0, 0]


def test_a_24_gb_card_is_chosen_before_a_12_gb_card() -> None:
    chosen = choose(view_of(("small",), ("big",)).candidates(0)["chat"], {})
    assert chosen is not None
    assert chosen.replica_id == "chat/1"


@pytest.mark.parametrize(
    "card", [device("big", 24, None), device("big", 24, health="lost"), device("other", 24)]
)
def test_a_card_that_tells_nothing_has_no_room(card: DeviceView) -> None:
    assert free_gib(view_of(("big",), devices=(card,))) == [0]


def test_a_card_that_is_more_than_full_has_no_room() -> None:
    assert free_gib(view_of(("big",), devices=(device("big", 24, 25),))) == [0]


@pytest.mark.parametrize("state", list(ReplicaState))
def test_only_a_ready_replica_can_be_chosen(state: ReplicaState) -> None:
    pools = PoolsView()
    pools.update(snapshot(pool_view(replica(state=state))), 0.0, 0)
    chosen = choose(pools.candidates(0)["chat"], {})
    assert (chosen is not None) == (state is ReplicaState.READY)


def test_a_draining_pool_has_no_ready_replica() -> None:
    pools = PoolsView()
    pools.update(snapshot(pool_view(replica(), draining=True)), 0.0, 0)
    assert choose(pools.candidates(0)["chat"], {}) is None


def test_a_replica_that_failed_a_task_is_passed_over_for_a_moment() -> None:
    pools = view_of(("big",), ("small",))
    pools.distrust("chat/0", now=10.0)
    assert [c.replica_id for c in pools.candidates(10.0)["chat"]] == ["chat/1"]
    assert [c.replica_id for c in pools.candidates(10.0 + DISTRUST_S)["chat"]] == [
        "chat/0",
        "chat/1",
    ]


def test_while_the_manager_is_away_nothing_is_placed_and_nothing_is_forgotten() -> None:
    pools = view_of(("big",))
    assert pools.connected
    pools.update(None, 0.0, 0)
    assert not pools.connected
    assert pools.candidates(0) == {}
    assert list(pools.pools) == ["chat"]
    assert pools.replica("chat/0") is not None
    pools.update(snapshot(pool_view(replica())), 0.0, 0)
    assert pools.connected
    assert len(pools.candidates(0)["chat"]) == 1


def test_the_version_of_a_pool_is_what_a_replica_reports() -> None:
    pools = view_of(("big",))
    assert pools.engine_version("chat") == "b100"
    assert pools.engine_version("unknown") is None
    assert pools.replica("chat/7") is None
