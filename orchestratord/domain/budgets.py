"""What a session may use: a hold before, a settlement after, exact to the unit.

Every accepted task holds the most it may come to; when it ends, the hold is
given back and what was really used is charged.  So `spent + reserved` never
passes a limit, however many tasks are posted at once, and a task that is
canceled in the queue gives back all it held.

Cost is counted in billionths, in whole numbers, so that holds and refunds
cancel out to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

BILLION = 1_000_000_000

BudgetName = Literal["tokens", "time_ms", "cost"]


@dataclass(frozen=True, slots=True)
class Amounts:
    """Tokens, milliseconds, and billionths of a unit of cost."""

    tokens: int = 0
    time_ms: int = 0
    cost: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(*(a - b for a, b in zip(self, other, strict=True)))

    def __iter__(self) -> Iterator[int]:
        yield self.tokens
        yield self.time_ms
        yield self.cost


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class Limits:
    """The bound of each budget; None: there is none."""

    tokens: int | None = None
    time_ms: int | None = None
    cost: int | None = None


NAMES: tuple[BudgetName, ...] = ("tokens", "time_ms", "cost")
assert tuple(field.name for field in fields(Amounts)) == NAMES


@dataclass(frozen=True, slots=True)
class Shortage:
    """The budget that cannot bear a hold, what was wanted and what is left of it."""

    budget: BudgetName
    wanted: int
    remaining: int


@dataclass(slots=True)
class Ledger:
    """The three budgets of one session."""

    limits: Limits = Limits()
    reserved: Amounts = NOTHING
    spent: Amounts = NOTHING

    def remaining(self, budget: BudgetName) -> int | None:
        """What is left, at least 0; None where there is no bound."""
        limit: int | None = getattr(self.limits, budget)
        if limit is None:
            return None
        used: int = getattr(self.spent, budget) + getattr(self.reserved, budget)
        return max(0, limit - used)

    def shortage(self, hold: Amounts) -> Shortage | None:
        """The first budget that cannot bear `hold`; None where all can.

        A budget that is used up bears nothing, not even a hold of nothing.
        """
        for budget in NAMES:
            remaining = self.remaining(budget)
            wanted: int = getattr(hold, budget)
            if remaining is not None and (wanted > remaining or remaining == 0):
                return Shortage(budget, wanted, remaining)
        return None

    def reserve(self, hold: Amounts) -> None:
        """Hold it; the caller has seen that there is no shortage."""
        self.reserved += hold

    def release(self, hold: Amounts) -> None:
        """Give back a hold of which nothing was used."""
        self.reserved -= hold

    def extend_time(self, wanted_ms: int) -> int:
        """Hold up to `wanted_ms` more; returns how much there was, ms."""
        remaining = self.remaining("time_ms")
        more = wanted_ms if remaining is None else min(wanted_ms, remaining)
        self.reserved += Amounts(time_ms=more)
        return more

    def settle(self, hold: Amounts, used: Amounts) -> Amounts:
        """Give back the hold, charge what was used; returns the charge.

        Where there is a limit nothing is charged beyond the hold, whatever an
        engine reports, since the limit is a promise to a person; but time that was
        not extended soon enough, where there is some left.
        """
        self.reserved -= hold
        most = hold + Amounts(time_ms=max(0, (self.remaining("time_ms") or 0) - hold.time_ms))
        charge = Amounts(
            *(
                amount if getattr(self.limits, budget) is None else min(amount, bound)
                for budget, amount, bound in zip(NAMES, used, most, strict=True)
            )
        )
        self.spent += charge
        return charge


@dataclass(frozen=True, slots=True)
class Price:
    """What tokens cost; `per_token` in billionths."""

    per_token: int

    @classmethod
    def per_thousand(cls, cost: float) -> Price:
        """Of a price for 1,000 tokens."""
        return cls(round(cost * BILLION / 1000))

    def of(self, tokens: int) -> int:
        """The cost of so many tokens, in billionths."""
        return tokens * self.per_token
