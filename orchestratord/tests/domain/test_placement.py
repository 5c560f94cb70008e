"""Who gets the next task, on cards of unequal size: LO-ORC-030, LO-ORC-031, LO-ORC-127."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from orchestratord.domain.placement import Candidate, choose
from orchestratord.tests.builders import GIB
from orchestratord.tests.domain.scheduling import REPEATABLE, machine_settings

NAMES = tuple(f"chat/{number}" for number in range(10))
ROOM = (0, GIB, 12 * GIB, 24 * GIB)
NOBODY: Counter[str] = Counter()

candidates = st.builds(
    Candidate,
    replica_id=st.sampled_from(NAMES),
    ready=st.booleans(),
    slots_total=st.integers(0, 3),
    free_vram_bytes=st.sampled_from(ROOM),
)
actives = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 4))


def replica(number: int, *, free_gib: int = 0, slots: int = 2) -> Candidate:
    return Candidate(f"chat/{number}", True, slots, free_gib * GIB)


def test_the_card_with_more_free_memory_goes_first_however_busy_it_is() -> None:
    large, small = replica(1, free_gib=24), replica(0, free_gib=12)
    assert choose([small, large], {"chat/1": 1}) == large


def test_the_24_gb_card_fills_up_before_the_12_gb_card_is_used() -> None:
    cards = [replica(0, free_gib=12), replica(1, free_gib=24)]
    active, order = Counter[str](), []
    while (chosen := choose(cards, active)) is not None:
        active[chosen.replica_id] += 1
        order.append(chosen.replica_id)
    assert order == ["chat/1", "chat/1", "chat/0", "chat/0"]


def test_a_24_gb_card_that_is_nearly_full_comes_after_an_empty_12_gb_card() -> None:
    large, small = replica(0, free_gib=2), replica(1, free_gib=12)
    assert choose([large, small], NOBODY) == small


def test_equal_room_is_settled_by_active_tasks_then_by_the_id() -> None:
    assert choose([replica(0), replica(1)], {"chat/0": 1}) == replica(1)
    assert choose([replica(1), replica(0)], NOBODY) == replica(0)


def test_without_a_card_a_replica_is_the_last_resort() -> None:
    assert choose([replica(0), replica(1, free_gib=1)], NOBODY) == replica(1, free_gib=1)
    assert choose([replica(0), replica(1, free_gib=1, slots=0)], NOBODY) == replica(0)


def test_nobody_is_chosen_when_no_slot_is_free() -> None:
    assert choose([], NOBODY) is None
    assert choose([replica(0), replica(1)], {"chat/0": 2, "chat/1": 3}) is None
    assert choose([Candidate("chat/0", False, 2, GIB)], NOBODY) is None
    assert choose([replica(0, slots=1)], {"chat/0": 1}, preferred="chat/0") is None


def test_the_replica_that_holds_the_cache_goes_before_one_with_more_room() -> None:
    """LO-ORC-127."""
    cards = [replica(0, free_gib=1), replica(1, free_gib=24)]
    assert choose(cards, {"chat/0": 1}, preferred="chat/0") == cards[0]


def test_nobody_waits_for_the_replica_that_holds_the_cache() -> None:
    """LO-ORC-127."""
    cards = [replica(0, free_gib=24), replica(1, free_gib=1)]
    assert choose(cards, {"chat/0": 2}, preferred="chat/0") == cards[1]
    assert choose(cards, NOBODY, preferred="chat/9") == cards[0]
    stopped = Candidate("chat/0", False, 2, 24 * GIB)
    assert choose([stopped, cards[1]], NOBODY, preferred="chat/0") == cards[1]


@REPEATABLE
@given(
    st.lists(candidates, max_size=8, unique_by=lambda c: c.replica_id),
    actives,
    st.sampled_from((None, *NAMES)),
)
def test_the_choice_is_ready_has_a_slot_and_nothing_is_better(
    found: list[Candidate], active: dict[str, int], preferred: str | None
) -> None:
    chosen = choose(found, active, preferred)
    fit = [c for c in found if c.ready and active.get(c.replica_id, 0) < c.slots_total]
    assert (chosen is None) == (not fit)
    if chosen is not None:
        assert chosen in fit
        assert chosen.replica_id == best_of(fit, active, preferred)


def best_of(fit: list[Candidate], active: dict[str, int], preferred: str | None) -> str:
    """The rule, one step after the other."""
    names = {c.replica_id for c in fit}
    if preferred in names:
        assert preferred is not None
        return preferred
    roomiest = [c for c in fit if c.free_vram_bytes == max(o.free_vram_bytes for o in fit)]
    least = min(active.get(c.replica_id, 0) for c in roomiest)
    return min(c.replica_id for c in roomiest if active.get(c.replica_id, 0) == least)


class PlacementMachine(RuleBasedStateMachine):
    """Tasks come and go on replicas that come, go and fill their cards."""

    def __init__(self) -> None:
        super().__init__()
        self.replicas: dict[str, Candidate] = {}
        self.running: list[str] = []

    @rule(found=candidates)
    def replica_changes(self, found: Candidate) -> None:
        self.replicas[found.replica_id] = found

    @precondition(lambda self: self.replicas)
    @rule(data=st.data())
    def replica_goes(self, data: st.DataObject) -> None:
        del self.replicas[data.draw(st.sampled_from(sorted(self.replicas)))]

    @rule(preferred=st.sampled_from((None, *NAMES)), count=st.integers(1, 6))
    def place(self, preferred: str | None, count: int) -> None:
        for _ in range(count):
            active = Counter(self.running)
            chosen = choose(self.replicas.values(), active, preferred)
            fit = [
                c
                for c in self.replicas.values()
                if c.ready and active[c.replica_id] < c.slots_total
            ]
            if chosen is None:
                assert not fit
                return
            assert chosen.replica_id == best_of(fit, active, preferred)
            self.running.append(chosen.replica_id)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def task_ends(self, data: st.DataObject) -> None:
        self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))


PlacementMachine.TestCase.settings = machine_settings(examples=40, steps=40)
test_placement_agrees_with_its_rule_whatever_comes_and_goes = PlacementMachine.TestCase
