"""What a task and a session used, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from contracts.sessions import AmountBudget, CostBudget
from llama_orch.output import duration, number


def figures(end: Mapping[str, object], cached: float = 0.0) -> str:
    """The final line of a task: tokens, rate, times; rate counts the gaps between tokens.

    `cached` is the share of the prompt that was found in the engine's cache; of 0
    nothing is said. What the task's session may still use is added where it has limits.
    """
    if isinstance(end.get("result"), dict):
        left = ", ".join(budgets_left(end.get("budgets")))
        return (
            f"{_number(end.get('tokens_in')):.0f} tokens"
            f" · queued {duration(_number(end.get('queue_ms')))}"
            + (f" · session: {left}" if left else "")
        )
    tokens, decode_ms = _number(end.get("tokens_out")), _number(end.get("decode_ms"))
    rate = f" · {(tokens - 1) * 1000 / decode_ms:.1f} tokens/s" if decode_ms and tokens > 1 else ""
    left = ", ".join(budgets_left(end.get("budgets")))
    return (
        f"{tokens:.0f} tokens{rate}"
        f" · first token after {duration(_number(end.get('first_token_ms')))}"
        f" · queued {duration(_number(end.get('queue_ms')))}"
        f" · prompt {_number(end.get('tokens_in')):.0f} tokens"
        + (f", {cached:.0%} in the cache" if cached > 0 else "")
        + f" · {end.get('finish_reason')}"
        + (f" · session: {left}" if left else "")
    )


def budgets_left(budgets: object) -> list[str]:
    """What is left of each budget that has a limit; nothing of what cannot be read."""
    found: list[str] = []
    if not isinstance(budgets, dict):
        return found
    for name, (say, unit) in _BUDGETS.items():
        budget = budgets.get(name)
        if not isinstance(budget, dict):
            continue
        limit, remaining = number(budget.get("limit")), number(budget.get("remaining"))
        if limit is not None and remaining is not None:
            found.append(f"{say(remaining)} of {say(limit)}{unit} left")
    return found


def spent_of_limit(name: str, budget: AmountBudget | CostBudget) -> str:
    """A cell of a table, like 1,188/2,000; empty without limit and use."""
    say, _ = _BUDGETS[name]
    if budget.limit is not None:
        return f"{say(budget.spent)}/{say(budget.limit)}"
    return say(budget.spent) if budget.spent else ""


def budget_account(name: str, budget: AmountBudget | CostBudget) -> str:
    """All of a budget on one line."""
    say, _ = _BUDGETS[name]
    account = f"{say(budget.spent)} spent"
    if budget.reserved:
        account += f", {say(budget.reserved)} held for its tasks"
    if budget.limit is None or budget.remaining is None:
        return f"{account}, no limit"
    return f"{account}, {say(budget.remaining)} of {say(budget.limit)} left"


def _whole(amount: float) -> str:
    return f"{amount:,.0f}"


def _cost(amount: float) -> str:
    """Up to six decimals, none that is an idle 0."""
    whole, _, decimals = f"{amount:,.6f}".partition(".")
    decimals = decimals.rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole


_BUDGETS: dict[str, tuple[Callable[[float], str], str]] = {
    "tokens": (_whole, " tokens"),
    "time_ms": (duration, ""),
    "cost": (_cost, " cost"),
}
"""Of each budget: how an amount is said, and its unit."""


def _number(value: object) -> float:
    return number(value) or 0.0
