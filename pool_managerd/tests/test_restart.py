"""Backoff, breaker and forgetting, on an injected clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contracts.config import Restart
from contracts.pools import FailureReason
from pool_managerd.domain.restart import (
    UNRECOVERABLE,
    Breaker,
    Decision,
    GiveUp,
    Pause,
    RestartBudget,
    Retry,
)

POLICY = Restart(base_ms=100, cap_ms=2_000, intensity=4, window_ms=10_000, stable_ms=5_000)
PATIENT = Restart(base_ms=100, cap_ms=2_000, intensity=1000, window_ms=1, stable_ms=5_000)


@given(chance=st.floats(0, 1), failures=st.integers(1, 60))
def test_a_delay_is_within_a_quarter_of_the_doubled_base_and_never_above_the_cap(
    chance: float, failures: int
) -> None:
    budget = RestartBudget(PATIENT)
    for number in range(failures):
        decision = budget.failed(FailureReason.CRASH, now=number * 100_000, chance=chance)
    assert isinstance(decision, Retry)
    doubled = 100 * 2 ** (failures - 1)
    assert decision.delay_ms <= PATIENT.cap_ms
    assert decision.delay_ms >= min(doubled, PATIENT.cap_ms) * 0.75 - 1
    assert decision.delay_ms <= doubled * 1.25 + 1


def test_failures_within_the_window_open_the_breaker_at_the_intensity() -> None:
    budget = RestartBudget(POLICY)
    decisions = [budget.failed(FailureReason.EXITED, now, 0.5) for now in (0, 10, 20, 30)]
    assert [type(decision) for decision in decisions] == [Retry, Retry, Retry, Pause]
    assert decisions[-1] == Pause(POLICY.cap_ms)
    assert budget.breaker is Breaker.OPEN


def test_failures_spread_over_more_than_the_window_leave_it_closed() -> None:
    budget = RestartBudget(POLICY)
    for number in range(20):
        assert isinstance(budget.failed(FailureReason.EXITED, number * 4_000, 0.5), Retry)


def test_the_half_open_try_closes_the_breaker_by_serving() -> None:
    budget = _opened()
    budget.starting()
    seen = [budget.breaker]
    budget.serving(5_000)
    assert [*seen, budget.breaker] == [Breaker.HALF_OPEN, Breaker.CLOSED]


def test_the_half_open_try_opens_the_breaker_by_failing() -> None:
    budget = _opened()
    budget.starting()
    assert budget.failed(FailureReason.EXITED, 1_000_000, 0.5) == Pause(POLICY.cap_ms)
    assert budget.breaker is Breaker.OPEN


def test_serving_long_enough_forgets_and_serving_shorter_does_not() -> None:
    """LO-POOL-023."""
    stable, restless = RestartBudget(PATIENT), RestartBudget(PATIENT)
    for budget in (stable, restless):
        for _ in range(3):
            budget.failed(FailureReason.CRASH, 0, 0.5)
        budget.serving(1_000)
    assert stable.failed(FailureReason.CRASH, 6_000, 0.5) == Retry(100)
    assert restless.failed(FailureReason.CRASH, 5_999, 0.5) == Retry(800)


def died(budget: RestartBudget, now: int, *tasks: str) -> Decision:
    return budget.failed(FailureReason.CRASH, now, 0.5, frozenset(tasks))


def test_deaths_with_the_same_task_count_once_and_back_off_each_time() -> None:
    """LO-POOL-071."""
    budget = RestartBudget(POLICY)
    delays = [died(budget, now, "poison") for now in range(0, 60, 10)]
    assert delays == [Retry(ms) for ms in (100, 200, 400, 800, 1_600, 2_000)]
    others = [died(budget, 100 + number, f"t{number}") for number in range(3)]
    assert [type(decision) for decision in others] == [Retry, Retry, Pause]


def test_a_task_is_blamed_for_deaths_that_count_and_not_for_others() -> None:
    """LO-POOL-071: who was there with the poison only once is not taken for it."""
    budget = RestartBudget(POLICY.model_copy(update={"intensity": 2}))
    assert isinstance(died(budget, 0, "poison", "first"), Retry)
    assert isinstance(died(budget, 1, "poison", "second"), Retry)
    assert isinstance(died(budget, 2, "first"), Retry)
    assert isinstance(died(budget, 3, "second"), Pause)


def test_a_task_is_blamed_for_no_longer_than_the_window() -> None:
    """LO-POOL-071."""
    budget = RestartBudget(POLICY.model_copy(update={"intensity": 2, "window_ms": 1_000}))
    for now in (0, 1_000, 1_001):
        assert isinstance(died(budget, now, "poison"), Retry)
    assert isinstance(died(budget, 1_002, "another"), Pause)


def test_a_death_that_does_not_count_leaves_a_breaker_that_closed_again_closed() -> None:
    budget = RestartBudget(POLICY.model_copy(update={"intensity": 1}))
    assert isinstance(died(budget, 0, "poison"), Pause)
    budget.starting()
    budget.serving(10)
    assert isinstance(died(budget, 20, "poison"), Retry)
    assert budget.breaker is Breaker.CLOSED


def test_deaths_with_no_task_count_each() -> None:
    budget = RestartBudget(POLICY.model_copy(update={"intensity": 2}))
    assert isinstance(died(budget, 0), Retry)
    assert isinstance(died(budget, 1), Pause)


@pytest.mark.parametrize("reason", sorted(UNRECOVERABLE))
def test_what_cannot_heal_is_given_up_at_once(reason: FailureReason) -> None:
    budget = RestartBudget(POLICY)
    assert budget.failed(reason, 0, 0.5) == GiveUp()
    assert budget.breaker is Breaker.OPEN


def _opened() -> RestartBudget:
    budget = RestartBudget(POLICY)
    for now in (0, 10, 20, 30):
        budget.failed(FailureReason.EXITED, now, 0.5)
    return budget


class Budget(RuleBasedStateMachine):
    """Any history keeps the promises that do not depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = RestartBudget(POLICY)
        self.now = 0
        self.recent: list[int] = []
        self.alive = True

    @rule(elapsed=st.integers(0, 30_000))
    def time_passes(self, elapsed: int) -> None:
        self.now += elapsed

    @precondition(lambda self: not self.alive)
    @rule()
    def starts(self) -> None:
        was_open = self.budget.breaker is Breaker.OPEN
        self.budget.starting()
        self.alive = True
        assert (self.budget.breaker is Breaker.HALF_OPEN) == was_open

    @precondition(lambda self: self.alive)
    @rule()
    def serves(self) -> None:
        self.budget.serving(self.now)
        assert self.budget.breaker is Breaker.CLOSED

    @precondition(lambda self: self.alive)
    @rule(chance=st.floats(0, 1), tasks=st.frozensets(st.sampled_from("abc")))
    def fails(self, chance: float, tasks: frozenset[str]) -> None:
        half_open = self.budget.breaker is Breaker.HALF_OPEN
        decision = self.budget.failed(FailureReason.CRASH, self.now, chance, tasks)
        self.alive = False
        if half_open:
            assert isinstance(decision, Pause)
        assert isinstance(decision, Retry | Pause)
        assert 0 < decision.delay_ms <= POLICY.cap_ms
        assert isinstance(decision, Pause) == (self.budget.breaker is Breaker.OPEN)

    @invariant()
    def an_open_breaker_has_nothing_alive(self) -> None:
        if self.budget.breaker is Breaker.OPEN:
            assert not self.alive


TestBudget = Budget.TestCase
TestBudget.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_failed_counts_on_after_a_restart_of_the_daemon() -> None:
    """LO-POOL-134: another monotonic clock, the same wall clock."""
    policy = Restart(base_ms=100, cap_ms=1_000, intensity=3, window_ms=60_000)
    before = RestartBudget(policy)
    before.failed(FailureReason.CRASH, 5_000, 0.5)
    before.failed(FailureReason.CRASH, 6_000, 0.5)
    after = RestartBudget(policy)
    assert after.restore(before.state(6_000, 106_000), 40, 106_050) == 150
    after.starting()
    assert after.failed(FailureReason.CRASH, 500, 0.5) == Pause(1_000)
    third = RestartBudget(policy)
    assert third.restore(after.state(600, 107_000), 7, 107_100) == 800
    assert third.breaker is Breaker.OPEN
    third.starting()
    assert third.failed(FailureReason.CRASH, 900, 0.5) == Pause(1_000)


def test_a_restored_failure_that_cannot_heal_is_tried_once_more() -> None:
    """LO-POOL-134."""
    before = RestartBudget(Restart())
    before.failed(FailureReason.MODEL_MISSING, 5_000, 0.5)
    after = RestartBudget(Restart())
    assert after.restore(before.state(6_000, 106_000), 0, 106_000) == 0
    assert after.breaker is Breaker.CLOSED


@pytest.mark.parametrize("jump_ms", [-86_400_000, 86_400_000])
def test_a_wall_clock_that_jumps_makes_nothing_wait_longer_than_its_cap(jump_ms: int) -> None:
    """LO-POOL-134."""
    policy = Restart(base_ms=400, cap_ms=500)
    before = RestartBudget(policy)
    before.failed(FailureReason.CRASH, 5_000, 0.5)
    after = RestartBudget(policy)
    assert 0 <= after.restore(before.state(5_000, 10**12), 0, 10**12 + jump_ms) <= 500
