"""The scenarios of this package."""

from __future__ import annotations

from test_harness.chaos.scenario import Scenario
from test_harness.chaos.streams import (
    disconnects,
    followed,
    gone_events,
    hostile_engines,
    killed,
    many_streams,
    odd_bytes,
    resumed,
    slow_readers,
    stalled,
)

SCENARIOS = (
    Scenario(
        "S-1",
        "a slow reader is dropped, and its task lives",
        slow_readers.slow_readers,
        fault="readers cut off",
    ),
    Scenario(
        "S-2",
        "many slow streams cost little and lose nothing",
        many_streams.many_streams,
        fault="streams",
    ),
    Scenario(
        "S-3",
        "readers that reset freeze nothing and leave nothing",
        disconnects.readers_that_reset,
        fault="readers that left",
    ),
    Scenario(
        "S-4",
        "a reader that leaves before the first event gives its stream back",
        disconnects.readers_that_leave_early,
        fault="readers that left",
    ),
    Scenario(
        "S-4",
        "so does one that sent something after its request",
        disconnects.readers_that_talk_on,
        fault="readers that left",
    ),
    Scenario(
        "S-4",
        "a task lives on when the POST that streams it breaks",
        disconnects.posts_that_break,
        fault="posts that broke",
    ),
    Scenario(
        "S-4",
        "a client that closes its half reads a beginning, and resumes",
        disconnects.readers_by_half,
        fault="connections closed by half",
    ),
    Scenario(
        "S-5",
        "text survives every way to cut and frame it",
        odd_bytes.odd_bytes,
        fault="faults seen in the engine's bytes",
    ),
    Scenario(
        "S-6",
        "whatever an engine sends, there is one end and nothing foreign",
        hostile_engines.hostile_engines,
        fault="streams under a fault",
    ),
    Scenario(
        "S-7",
        "a reader that comes back misses nothing, and all read the same bytes",
        resumed.resumed_streams,
        fault="connections broken",
    ),
    Scenario(
        "S-7",
        "events that are gone are said to be gone",
        gone_events.events_that_are_gone,
        fault="events gone",
    ),
    Scenario(
        "S-7",
        "places in line fall to the front, and figures keep to the grammar",
        followed.followed_queue,
        fault="figures of those followed",
    ),
    Scenario(
        "S-7",
        "figures are appended only while somebody follows",
        followed.unfollowed_streams,
        fault="times that nobody followed",
    ),
    Scenario(
        "S-7",
        "ids go on rising for whoever followed a waiting task at a death",
        killed.killed_while_followed,
        fault="deaths while followed",
    ),
    Scenario(
        "S-7",
        "so they do for a task that was being answered",
        killed.killed_while_answered,
        fault="deaths while followed",
    ),
    Scenario(
        "S-8",
        "an engine that stalls in decode is noticed, and its slot comes back",
        stalled.stalled_engines,
        fault="stalls",
    ),
)
