"""Who gets the next task, on cards of unequal size: LO-ORC-030, LO-ORC-031."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestratord.domain.placement import Candidate, choose
from orchestratord.tests.builders import GIB

candidates = st.builds(
    Candidate,
    replica_id=st.integers(0, 9).map(lambda n: f"chat/{n}"),
    ready=st.booleans(),
    slots_total=st.integers(0, 3),
    active=st.integers(0, 4),
    free_vram_bytes=st.sampled_from((0, 12 * GIB, 24 * GIB)),
)


def replica(number: int, *, free_gib: int = 0, active: int = 0, slots: int = 2) -> Candidate:
    return Candidate(f"chat/{number}", True, slots, active, free_gib * GIB)


def test_the_card_with_more_free_memory_goes_first_however_busy_it_is() -> None:
    large, small = replica(1, free_gib=24, active=1), replica(0, free_gib=12)
    assert choose([small, large]) == large


def test_the_24_gb_card_fills_up_before_the_12_gb_card_is_used() -> None:
    cards = {"chat/0": 12, "chat/1": 24}
    active = dict.fromkeys(cards, 0)
    order = []
    while True:
        chosen = choose(
            Candidate(name, True, 2, active[name], free * GIB) for name, free in cards.items()
        )
        if chosen is None:
            break
        active[chosen.replica_id] += 1
        order.append(chosen.replica_id)
    assert order == ["chat/1", "chat/1", "chat/0", "chat/0"]


def test_a_24_gb_card_that_is_nearly_full_comes_after_an_empty_12_gb_card() -> None:
    large, small = replica(0, free_gib=2), replica(1, free_gib=12)
    assert choose([large, small]) == small


def test_equal_room_is_settled_by_active_tasks_then_by_the_id() -> None:
    assert choose([replica(0, active=1), replica(1)]) == replica(1)
    assert choose([replica(1), replica(0)]) == replica(0)


def test_without_a_card_a_replica_is_the_last_resort() -> None:
    assert choose([replica(0), replica(1, free_gib=1)]) == replica(1, free_gib=1)
    assert choose([replica(0), replica(1, free_gib=1, slots=0)]) == replica(0)


def test_nobody_is_chosen_when_no_slot_is_free() -> None:
    assert choose([]) is None
    assert choose([replica(0, active=2), replica(1, active=3)]) is None
    assert choose([Candidate("chat/0", False, 2, 0, GIB)]) is None


@given(st.lists(candidates, max_size=8))
def test_the_choice_is_ready_has_a_slot_and_nothing_is_better(found: list[Candidate]) -> None:
    chosen = choose(found)
    fit = [c for c in found if c.ready and c.active < c.slots_total]
    assert (chosen is None) == (not fit)
    if chosen is not None:
        assert chosen in fit
        keys = [(-c.free_vram_bytes, c.active, c.replica_id) for c in fit]
        assert (-chosen.free_vram_bytes, chosen.active, chosen.replica_id) == min(keys)
