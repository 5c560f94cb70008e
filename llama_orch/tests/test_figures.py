"""What a person reads at the end of a task, and of a session."""

from __future__ import annotations

import pytest

from contracts.sessions import AmountBudget, CostBudget
from llama_orch.figures import budget_account, budgets_left, figures, spent_of_limit

END = {
    "finish_reason": "stop",
    "tokens_in": 12,
    "tokens_out": 101,
    "queue_ms": 1500,
    "first_token_ms": 80,
    "decode_ms": 2000,
}


def test_the_rate_counts_the_gaps_between_tokens() -> None:
    assert figures(dict(END)) == (
        "101 tokens · 50.0 tokens/s · first token after 80 ms · queued 1.5 s"
        " · prompt 12 tokens · stop"
    )


@pytest.mark.parametrize("missing", [{"tokens_out": 1}, {"decode_ms": None}, {"decode_ms": 0}])
def test_no_rate_is_made_up(missing: dict[str, object]) -> None:
    assert "tokens/s" not in figures(END | missing)


def test_a_strange_end_event_does_not_break_the_display() -> None:
    assert figures({"tokens_out": "many", "decode_ms": []}).startswith("0 tokens")


def budget(limit: float | None, spent: float, reserved: float = 0) -> dict[str, float | None]:
    remaining = None if limit is None else limit - spent - reserved
    return {"limit": limit, "spent": spent, "reserved": reserved, "remaining": remaining}


BUDGETS = {
    "tokens": budget(2000, 1188),
    "time_ms": budget(600_000, 510_000),
    "cost": budget(1.0, 0.25),
}


def test_what_is_left_of_a_session_is_said_of_budgets_with_a_limit() -> None:
    """LO-CMD-037."""
    line = figures({**END, "budgets": {**BUDGETS, "time_ms": budget(None, 5)}})
    assert line.endswith(" · stop · session: 812 of 2,000 tokens left, 0.75 of 1 cost left")
    assert budgets_left(BUDGETS)[1] == "1.5 min of 10.0 min left"


def test_a_session_without_limits_adds_nothing() -> None:
    free = {name: budget(None, 3) for name in BUDGETS}
    assert "session" not in figures({**END, "budgets": free}) + figures(dict(END))


@pytest.mark.parametrize(
    "strange", [None, [], "much", {"tokens": 3}, {"tokens": {"limit": "x", "remaining": 5}}]
)
def test_budgets_that_cannot_be_read_are_left_out(strange: object) -> None:
    assert budgets_left(strange) == []


def test_the_share_found_in_the_cache_is_said_where_there_is_one() -> None:
    """LO-CMD-037."""
    assert " · prompt 12 tokens, 75% in the cache · stop" in figures(END, cached=0.75)
    assert "cache" not in figures(END, cached=0.0)


@pytest.mark.parametrize(
    ("limit", "spent", "cell"),
    [(2000, 1188, "1,188/2,000"), (2000, 0, "0/2,000"), (None, 7, "7"), (None, 0, "")],
)
def test_a_cell_is_empty_without_limit_and_use(limit: int | None, spent: int, cell: str) -> None:
    """LO-CMD-050."""
    amount = AmountBudget(limit=limit, reserved=0, spent=spent, remaining=None)
    assert spent_of_limit("tokens", amount) == cell


def test_an_account_says_what_is_spent_held_and_left() -> None:
    tokens = AmountBudget(limit=2000, reserved=300, spent=1188, remaining=512)
    assert budget_account("tokens", tokens) == (
        "1,188 spent, 300 held for its tasks, 512 of 2,000 left"
    )
    cost = CostBudget(limit=None, reserved=0, spent=0.1 + 0.2, remaining=None)
    assert budget_account("cost", cost) == "0.3 spent, no limit"
