"""The scenarios of this package."""

from __future__ import annotations

from test_harness.chaos.queueing import (
    budgets,
    cancels,
    drop_lru,
    exact_bound,
    late_work,
    order,
    poison,
    same_id,
    slots,
    slow_prefill,
    stopped_worker,
    unequal_cards,
)
from test_harness.chaos.scenario import Scenario

SCENARIOS = (
    Scenario("Q-1", "the bound of a queue is exact", exact_bound.exact_bound, fault="refused"),
    Scenario("Q-2", "interactive first, and each class in its order", order.order, fault="batch"),
    Scenario("Q-2", "no class waits for ever", order.starvation_bound, fault="of each kind"),
    Scenario("Q-3", "a retry is safe", same_id.same_id, fault="posts of each at once"),
    Scenario("Q-4", "nothing follows a cancel", cancels.cancels, fault="ran when canceled"),
    Scenario(
        "Q-5",
        "late work is never dispatched",
        late_work.dead_on_arrival,
        fault="expired in the queue",
    ),
    Scenario(
        "Q-6",
        "an engine that stood still ends its task once",
        stopped_worker.stopped_worker,
        fault="stopped for, s",
    ),
    Scenario(
        "Q-7", "a slow prompt is not a dead one", slow_prefill.slow_prefill, fault="prefill, ms"
    ),
    Scenario("Q-8", "poison is given up, and its pool serves on", poison.poison, fault="deaths"),
    Scenario(
        "Q-9", "a budget holds however much is posted at once", budgets.budgets, fault="posts"
    ),
    Scenario("Q-9", "a budget holds over kills", budgets.killed_budgets, fault="kills"),
    Scenario("Q-10", "no replica runs more than it has slots for", slots.slots, fault="kills"),
    Scenario(
        "Q-11",
        "work goes where the memory is",
        unequal_cards.unequal_cards,
        fault="moves of the cards",
    ),
    Scenario(
        "Q-12", "a full queue drops its oldest batch task", drop_lru.drop_lru, fault="dropped"
    ),
)
