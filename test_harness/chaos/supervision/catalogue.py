"""The scenarios of this package."""

from __future__ import annotations

from test_harness.chaos.scenario import Scenario
from test_harness.chaos.supervision import floods, hangs, killed_manager, reloads, restarts

SCENARIOS = (
    Scenario("P-1", "a dead engine is started later each time", restarts.dies_at_once, "deaths"),
    Scenario(
        "P-2",
        "five deaths open the breaker, one try follows, serving closes it",
        restarts.breaker_opens,
        "deaths before it opened",
        server_errors=frozenset({503}),
    ),
    Scenario("P-2", "a long crash loop costs the same per death", restarts.crash_loop, "deaths"),
    Scenario("P-1", "a crash costs its delay and its start", restarts.back_again, "crashes"),
    Scenario(
        "P-4",
        "the manager may die: no engine is lost or doubled, streams finish",
        killed_manager.killed_manager,
        "kills",
    ),
    Scenario(
        "P-6",
        "an engine that is frozen while idle is found and exchanged",
        hangs.frozen_while_idle,
        "engines frozen",
    ),
    Scenario(
        "P-6", "one that is half alive is ejected by its traffic", hangs.half_alive, "hung streams"
    ),
    Scenario("P-7", "a long prefill is no death", hangs.long_prefill, "silent prefills"),
    Scenario("P-8", "logs cannot block an engine", floods.log_flood, "floods"),
    Scenario(
        "P-10",
        "a reload that fails is rolled back, and loses no task",
        reloads.reload_rolls_back,
        "failed reloads",
    ),
)
