"""Budgets: holds, settlements, and what is left, exact to the unit."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestratord.domain.budgets import (
    BILLION,
    NAMES,
    NOTHING,
    Amounts,
    Ledger,
    Limits,
    Price,
    Shortage,
)
from orchestratord.tests.domain.scheduling import REPEATABLE, machine_settings

amounts = st.builds(Amounts, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
bound = st.none() | st.integers(1, 200)
limits = st.builds(Limits, bound, bound, bound)


def total(found: list[Amounts]) -> Amounts:
    return sum(found, NOTHING)


class BudgetMachine(RuleBasedStateMachine):
    """Many tasks of one session against a list of holds and a list of charges.

    `most` is what each budget may come to: its limit, or what was already in
    use when somebody set a lower one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.holds: list[Amounts] = []
        self.charges: list[Amounts] = []
        self.most: dict[str, int | None] = {}

    @initialize(found=limits)
    def begin(self, found: Limits) -> None:
        self.set_limits(found)

    @rule(found=limits)
    def set_limits(self, found: Limits) -> None:
        self.ledger.limits = found
        for name in NAMES:
            limit = getattr(found, name)
            self.most[name] = None if limit is None else max(limit, self._used(name))

    @rule(hold=amounts, posts=st.integers(1, 8))
    def reserve(self, hold: Amounts, posts: int) -> None:
        for _ in range(posts):
            shortage = self._shortage(hold)
            assert self.ledger.shortage(hold) == shortage
            if shortage is None:
                self.ledger.reserve(hold)
                self.holds.append(hold)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """LO-ORC-124: what was held is there again, to the unit."""
        hold = self._pop(data)
        self.ledger.release(hold)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), wanted=st.integers(1, 100))
    def extend(self, data: st.DataObject, wanted: int) -> None:
        remaining = self._remaining("time_ms")
        more = self.ledger.extend_time(wanted)
        assert more == (wanted if remaining is None else min(wanted, remaining))
        self.holds.append(self._pop(data) + Amounts(time_ms=more))

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), used=amounts)
    def settle(self, data: st.DataObject, used: Amounts) -> None:
        """An engine may report less than was held, or more."""
        hold = self._pop(data)
        room = {name: self._remaining(name) for name in NAMES}
        charge = self.ledger.settle(hold, used)
        for name, wanted in zip(NAMES, used, strict=True):
            left, most = room[name], getattr(hold, name)
            if name == "time_ms":
                most = max(most, left or 0)
            assert getattr(charge, name) == (wanted if left is None else min(wanted, most))
        self.charges.append(charge)

    @invariant()
    def nothing_is_lost_and_no_limit_is_passed(self) -> None:
        """LO-ORC-123."""
        assert self.ledger.reserved == total(self.holds)
        assert self.ledger.spent == total(self.charges)
        for name in NAMES:
            most = self.most.get(name)
            assert most is None or self._used(name) <= most
            assert self.ledger.remaining(name) == self._remaining(name)
        assert all(type(amount) is int for amount in (*self.ledger.reserved, *self.ledger.spent))

    def _pop(self, data: st.DataObject) -> Amounts:
        return self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))

    def _used(self, name: str) -> int:
        found: int = getattr(total([*self.holds, *self.charges]), name)
        return found

    def _remaining(self, name: str) -> int | None:
        limit: int | None = getattr(self.ledger.limits, name)
        return None if limit is None else max(0, limit - self._used(name))

    def _shortage(self, hold: Amounts) -> Shortage | None:
        for name in NAMES:
            remaining, wanted = self._remaining(name), getattr(hold, name)
            if remaining is not None and (remaining == 0 or remaining < wanted):
                return Shortage(name, wanted, remaining)
        return None


BudgetMachine.TestCase.settings = machine_settings(examples=60, steps=40)
test_budgets_agree_with_plain_sums = BudgetMachine.TestCase


def test_ten_thousand_operations_of_a_hundred_sessions_agree_with_plain_sums() -> None:
    """LO-ORC-123, LO-ORC-124."""
    chance = random.Random(3)
    sessions = [(Ledger(Limits(5_000, 60_000, 7 * BILLION)), list[Amounts]()) for _ in range(100)]
    spent = [NOTHING] * len(sessions)
    price = Price.per_thousand(0.73)
    for _ in range(10_000):
        number = chance.randrange(len(sessions))
        ledger, holds = sessions[number]
        tokens = chance.randrange(900)
        hold = Amounts(tokens, chance.randrange(5_000), price.of(tokens))
        if ledger.shortage(hold) is None and chance.random() < 0.6:
            ledger.reserve(hold)
            holds.append(hold)
        elif holds:
            held = holds.pop(chance.randrange(len(holds)))
            if chance.random() < 0.5:
                ledger.release(held)
            else:
                used = Amounts(held.tokens // 2, held.time_ms // 3, price.of(held.tokens // 2))
                spent[number] += ledger.settle(held, used)
        assert ledger.reserved == total(holds)
        assert ledger.spent == spent[number]
        used_up = zip(ledger.spent + ledger.reserved, (5_000, 60_000, 7 * BILLION), strict=True)
        assert all(used <= limit for used, limit in used_up)


@pytest.mark.parametrize("wanted", [9, 10, 11])
def test_a_hold_is_borne_up_to_the_last_unit(wanted: int) -> None:
    ledger = Ledger(Limits(tokens=30), reserved=Amounts(tokens=15), spent=Amounts(tokens=5))
    short = None if wanted <= 10 else Shortage("tokens", wanted, 10)
    assert ledger.shortage(Amounts(tokens=wanted)) == short


def test_a_budget_that_is_used_up_bears_not_even_a_hold_of_nothing() -> None:
    ledger = Ledger(Limits(time_ms=10), spent=Amounts(time_ms=10))
    assert ledger.shortage(NOTHING) == Shortage("time_ms", 0, 0)


def test_the_first_budget_that_is_short_is_named() -> None:
    ledger = Ledger(Limits(1, 1, 1))
    hold = Amounts(2, 2, 2)
    named = []
    for name in NAMES:
        short = ledger.shortage(hold)
        assert short is not None
        named.append(short.budget)
        ledger.limits = replace(ledger.limits, **{name: None})
    assert named == list(NAMES)
    assert ledger.shortage(hold) is None


def test_a_limit_set_below_what_is_in_use_leaves_nothing_and_never_less() -> None:
    ledger = Ledger(Limits(tokens=100), Amounts(tokens=30), Amounts(tokens=50))
    ledger.limits = Limits(tokens=10)
    assert ledger.remaining("tokens") == 0
    assert ledger.settle(Amounts(tokens=30), Amounts(tokens=20)) == Amounts(tokens=20)
    assert (ledger.spent, ledger.reserved) == (Amounts(tokens=70), NOTHING)
    assert ledger.remaining("tokens") == 0


def test_an_engine_that_overreports_is_charged_no_more_than_was_held() -> None:
    """LO-ORC-123."""
    ledger = Ledger(Limits(tokens=100), reserved=Amounts(tokens=60), spent=Amounts(tokens=20))
    charge = ledger.settle(Amounts(tokens=30), Amounts(tokens=1_000))
    assert charge == Amounts(tokens=30)
    assert ledger.spent + ledger.reserved == Amounts(tokens=80)


def test_without_a_limit_everything_is_counted_and_nothing_refused() -> None:
    ledger = Ledger()
    huge = Amounts(10**15, 10**15, 10**24)
    assert ledger.shortage(huge) is None
    ledger.reserve(huge)
    assert ledger.extend_time(7) == 7
    assert ledger.settle(huge + Amounts(time_ms=7), huge) == huge
    assert (ledger.reserved, ledger.spent) == (NOTHING, huge)
    assert [ledger.remaining(name) for name in NAMES] == [None, None, None]


def test_time_is_extended_by_what_is_left_and_then_by_nothing() -> None:
    ledger = Ledger(Limits(time_ms=1_500))
    assert [ledger.extend_time(1_000) for _ in range(3)] == [1_000, 500, 0]
    assert ledger.reserved == Amounts(time_ms=1_500)


@REPEATABLE
@given(st.decimals(0, 1_000_000, places=6), st.lists(st.integers(0, 10**7), max_size=20))
def test_cost_is_whole_billionths_and_parts_add_up_to_the_whole(
    per_thousand: object, tokens: list[int]
) -> None:
    price = Price.per_thousand(float(str(per_thousand)))
    parts = [price.of(count) for count in tokens]
    assert all(type(part) is int for part in parts)
    assert sum(parts) == price.of(sum(tokens))
    exact = Fraction(str(per_thousand)) * BILLION / 1_000
    assert abs(price.per_token - exact) <= max(Fraction(1, 2), exact / 2**50)
