"""Xid errors, memory that comes back, and replicas that compute on the CPU unasked."""

from __future__ import annotations

import pytest

from contracts.metrics import LABEL_VALUES
from contracts.pools import DeviceProcess, DeviceView, FailureReason
from pool_managerd.domain.devices import LOST, split_by_memory
from pool_managerd.domain.gpu_watch import SAMPLES, GpuWatch
from pool_managerd.domain.vram import (
    SLACK_BYTES,
    MemoryMark,
    ReplicaMemory,
    held_bytes,
    memory_mark,
    still_held,
)
from pool_managerd.domain.xid import XidAction, xid_label, xid_verdict

GIB = 1 << 30
R, A = FailureReason, XidAction


def card(
    used: int | None = 0, *pids: int, index: int = 0, health: str = "ok", total: int = 24
) -> DeviceView:
    return DeviceView(
        index=index,
        uuid=f"GPU-{index}",
        name="Card",
        total_bytes=total * GIB,
        used_bytes=used,
        health=health,
        processes=tuple(DeviceProcess(pid=pid, used_bytes=GIB) for pid in pids),
    )


def mark(*cards: DeviceView) -> MemoryMark:
    return memory_mark(cards, ["GPU-0", "GPU-1"])


@pytest.mark.parametrize(
    ("xid", "reason", "action"),
    [
        *((xid, R(f"XID_{xid}"), A.RESTART_REPLICA) for xid in (13, 31, 43, 45, 74, 94)),
        *((xid, R(f"XID_{xid}"), A.LOSE_DEVICE) for xid in (48, 64, 95)),
        (63, R.XID_63, A.IGNORE),
        *((xid, R.GPU_LOST, A.LOSE_DEVICE) for xid in (79, 119, 120)),
        (0, R.XID_OTHER, A.IGNORE),
        (31337, R.XID_OTHER, A.IGNORE),
    ],
)
def test_each_xid_has_its_reason_and_action(
    xid: int, reason: FailureReason, action: XidAction
) -> None:
    """LO-POOL-083."""
    verdict = xid_verdict(xid)
    assert (verdict.reason, verdict.action) == (reason, action)
    assert verdict.remedy


def test_every_xid_label_but_other_is_in_the_table_and_the_reverse() -> None:
    """LO-MET-004, LO-POOL-083."""
    numbers = {xid for xid in range(200) if xid_verdict(xid).reason is not R.XID_OTHER}
    assert {str(xid) for xid in numbers} | {"other"} == set(LABEL_VALUES["xid"])
    assert [xid_label(79), xid_label(78)] == ["79", "other"]


LISTED = ReplicaMemory(
    ("GPU-0",),
    before=mark(card(GIB, 9)),
    serving=mark(card(9 * GIB, 9, 41)),
    pids=frozenset({41, 42}),
)
UNLISTED = ReplicaMemory(
    ("GPU-0",), before=mark(card(GIB)), stopping=mark(card(11 * GIB)), pids=frozenset({41})
)


@pytest.mark.parametrize(
    ("memory", "now", "held"),
    [
        (LISTED, card(9 * GIB, 9, 41, 42), [2 * GIB]),
        (LISTED, card(9 * GIB, 9), []),
        (UNLISTED, card(11 * GIB), [10 * GIB]),
        (UNLISTED, card(2 * GIB + 1), [GIB + 1]),
        (UNLISTED, card(2 * GIB), []),
        (ReplicaMemory(("GPU-0",), mark(card(GIB))), card(GIB + SLACK_BYTES), []),
        (
            ReplicaMemory(("GPU-0",), mark(card(GIB))),
            card(GIB + SLACK_BYTES + 1),
            [SLACK_BYTES + 1],
        ),
        (UNLISTED, card(None, health=LOST), []),
        (UNLISTED, card(None), []),
        (UNLISTED, card(11 * GIB, index=1), []),
    ],
    ids=[
        *("listed", "not listed any more", "all used", "89 percent fell", "90 percent fell"),
        *("within slack", "beyond slack", "lost", "untold", "another card"),
    ],
)
def test_memory_is_back_when_its_processes_or_nine_tenths_of_its_growth_are_gone(
    memory: ReplicaMemory, now: DeviceView, held: list[int]
) -> None:
    assert [card.bytes for card in still_held(memory, [now])] == held


def test_memory_held_is_that_of_its_processes_on_its_cards() -> None:
    devices = [card(0, 41, 9), card(0, 42, index=1)]
    assert held_bytes(devices, ["GPU-0", "GPU-1"], {41, 42}) == 2 * GIB
    assert held_bytes(devices, ["GPU-0"], {41, 42}) == GIB
    assert held_bytes(devices, ["GPU-0"], {7}) is None


def said(watch: GpuWatch, *cards: DeviceView, times: int = SAMPLES) -> list[str | None]:
    return [watch.degraded(cards, {41, 42}) for _ in range(times)]


def test_a_replica_listed_on_none_of_its_cards_is_degraded_at_the_third_sample() -> None:
    """LO-POOL-086."""
    watch = GpuWatch(["GPU-0"], mark(card()), None)
    *first, third = said(watch, card(0, 9))
    assert first == [None, None]
    assert third is not None
    assert "GPU 0 (Card): it computes on the CPU" in third
    assert watch.degraded([card(0, 41)], {41}) is None
    assert said(watch, card(0, 9), times=2) == [None, None], "it counts anew"


def test_a_card_it_does_not_use_is_named() -> None:
    """LO-POOL-086."""
    watch = GpuWatch(["GPU-0", "GPU-1"], mark(card(), card(index=1)), None)
    third = said(watch, card(0, 41), card(0, index=1))[-1]
    assert third is not None
    assert "no memory on GPU 1 (Card): it does not use it" in third


def test_a_lost_card_is_told_at_once() -> None:
    """LO-POOL-086."""
    watch = GpuWatch(["GPU-0"], mark(card()), None)
    assert said(watch, card(None, health=LOST), times=1) == [
        "GPU 0 (Card) is lost: reset the driver or reboot"
    ]


@pytest.mark.parametrize(
    ("expected", "used", "degraded"),
    [(None, GIB, False), (GIB, GIB, True), (GIB, GIB + GIB // 10, False), (GIB, None, False)],
)
def test_without_process_lists_the_growth_of_used_memory_tells(
    expected: int | None, used: int | None, degraded: bool
) -> None:
    """LO-POOL-086."""
    watch = GpuWatch(["GPU-0"], mark(card(GIB)), expected)
    assert (said(watch, card(used))[-1] is not None) is degraded


def test_a_model_is_split_by_total_memory() -> None:
    """LO-POOL-087."""
    cards = [card(total=24), card(index=1, total=12)]
    assert split_by_memory(["GPU-0", "GPU-1"], cards) == (2.0, 1.0)
    assert split_by_memory(["GPU-1", "GPU-0"], cards) == (1.0, 2.0)
    assert split_by_memory(["GPU-1"], cards) == split_by_memory([], cards) == ()
