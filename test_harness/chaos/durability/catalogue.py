"""The scenarios of this package."""

from __future__ import annotations

from test_harness.chaos.durability import (
    damaged_log,
    damaged_state,
    failing_points,
    flat_memory,
    full_disk,
    kills,
    other_owners,
    restarts,
)
from test_harness.chaos.scenario import Scenario

SCENARIOS = (
    Scenario(
        "D-1",
        "what was accepted is never lost, nor run twice at a time",
        kills.killed_at_random,
        fault="kills",
    ),
    Scenario(
        "D-2",
        "what was answered 202 is on disk, whatever the instant",
        failing_points.acknowledged_is_on_disk,
        fault="kills",
    ),
    Scenario(
        "D-4",
        "a death at any point of the code loses nothing",
        failing_points.killed_at_every_failpoint,
        fault="kills",
    ),
    Scenario(
        "D-4",
        "an error at any point of an attempt ends one task at most",
        failing_points.errors_at_every_failpoint,
        fault="errors",
        server_errors=frozenset({500}),
        defects=frozenset({"attempt_failed", "http.internal_error"}),
    ),
    Scenario(
        "D-5",
        "a full disk refuses what is new, and heals",
        full_disk.full_disk,
        fault="posts refused",
        server_errors=frozenset({503, 507}),
    ),
    Scenario(
        "D-6",
        "a locked database holds nobody up",
        other_owners.locked_database,
        fault="posts held up by the lock",
        server_errors=frozenset({503}),
    ),
    Scenario(
        "D-7",
        "a long queue does not slow a start",
        restarts.restart_with_queue,
        fault="tasks recovered",
    ),
    Scenario("D-8", "damaged state is refused", damaged_state.damaged_state, fault="damages"),
    Scenario("D-8", "so is a damaged log", damaged_log.damaged_log, fault="damages"),
    Scenario(
        "D-9", "state and port have one owner", other_owners.one_owner, fault="second daemons"
    ),
    Scenario(
        "D-10",
        "a clean stop tells every reader",
        restarts.clean_stop,
        fault="streams that were cut",
    ),
    Scenario(
        "D-11",
        "time that stood still is nobody's fault",
        restarts.stopped_daemon,
        fault="stood still, s",
        stands_still=True,
    ),
    Scenario("D-12", "memory is flat", flat_memory.flat_memory, fault="tasks"),
)
