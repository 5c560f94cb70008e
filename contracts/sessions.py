"""A session: a short-lived run of one agent, its turns, its budgets, its warm cache."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts.ids import ReplicaId, Uuid
from contracts.model import BYTES_MAX, Contract, Milliseconds, Omissible, Ratio, UnixMilliseconds

TURNS_MAX = 1_000_000
COST_MIN, COST_MAX = 1e-9, 1e9
"""Of a budget of cost; the unit is whatever `sessions.cost_per_1k_tokens` is in."""

Amount = Annotated[int, Field(ge=0, le=BYTES_MAX)]
AmountLimit = Annotated[int, Field(ge=1, le=BYTES_MAX)]
Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
CostLimit = Annotated[float, Field(ge=COST_MIN, le=COST_MAX, allow_inf_nan=False)]


class AmountBudget(Contract):
    """Tokens or milliseconds: what may be used, is held, is used, is left."""

    limit: Amount | None = Field(description="The most it may use; null: no bound.")
    reserved: Amount = Field(description="Held for tasks that have not ended.")
    spent: Amount = Field(description="Used by tasks that have ended.")
    remaining: Amount | None = Field(description="limit - reserved - spent, at least 0.")


class CostBudget(Contract):
    """The same in cost."""

    limit: Cost | None = Field(description="The most it may use; null: no bound.")
    reserved: Cost = Field(description="Held for tasks that have not ended.")
    spent: Cost = Field(description="Used by tasks that have ended.")
    remaining: Cost | None = Field(description="limit - reserved - spent, at least 0.")


class Budgets(Contract):
    """What a session may use."""

    tokens: AmountBudget = Field(description="Prompt and output tokens.")
    time_ms: AmountBudget = Field(description="Started to terminal, ms.")
    cost: CostBudget = Field(description="Tokens at `sessions.cost_per_1k_tokens`.")


class SessionSettings(Contract):
    """What one agent is allowed; what is left out is the default of the configuration.

    For a budget null means that there is no bound.
    """

    ttl_ms: Omissible[Annotated[int, Field(ge=1, le=7 * 24 * 3600 * 1000)]] = Field(
        default=None, description="Idle time to its end, ms."
    )
    max_turns: Omissible[Annotated[int, Field(ge=1, le=TURNS_MAX)]] = Field(
        default=None, description="Tasks it may run."
    )
    budget_tokens: AmountLimit | None = Field(default=None, description="Tokens; null: no bound.")
    budget_time_ms: AmountLimit | None = Field(default=None, description="ms; null: no bound.")
    budget_cost: CostLimit | None = Field(default=None, description="Cost; null: no bound.")


class SessionView(Contract):
    """A session as of now."""

    session_id: Uuid = Field(description="The session.")
    created_ms: UnixMilliseconds = Field(description="First seen, Unix ms.")
    ttl_ms: Milliseconds = Field(description="Idle time to its end, ms.")
    ttl_ms_remaining: Milliseconds = Field(
        description="Until it ends if nothing happens, ms; all of `ttl_ms` while a task of it is"
        " queued or running."
    )
    turns: int = Field(ge=0, description="Tasks accepted.")
    max_turns: int = Field(ge=1, le=TURNS_MAX, description="Tasks it may run.")
    active: int = Field(ge=0, description="Of these, queued or running.")
    kv_warmth: Ratio = Field(
        description="Share of the newest prompt that the engine found in its cache; 0 once the"
        " replica that holds the cache is gone."
    )
    replica_id: ReplicaId | None = Field(description="Where its cache is; null: nowhere.")
    budgets: Budgets = Field(description="What it may use.")


class SessionPage(Contract):
    """Sessions, the newest first."""

    items: tuple[SessionView, ...] = Field(description="The sessions.")
    next_cursor: str | None = Field(max_length=256, description="Pass as `cursor` for the next.")
