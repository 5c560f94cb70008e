"""S-7: figures in a stream follow its grammar, fall to the front, and cost nobody who is away."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path

from test_harness.chaos.figures import Figures, at_least, exactly
from test_harness.chaos.rig import fake_pool, served
from test_harness.chaos.standing import standing
from test_harness.chaos.streams.wire import Wire, event_id
from test_harness.chaos.waits import until
from test_harness.stack import Stack
from test_harness.task_client import Event, TaskClient, assert_grammar

INTERVAL_MS = 20
FRAMES = 5
"""Figures that a reader waits for before it leaves."""
AWAY_INTERVALS = 20
BEGUN_WITHIN_S = 10.0
ON_THE_WAY = 2
"""Frames that may be appended before the daemon has seen that the last reader left."""


def followed_queue(root: Path, seed: int, full: bool) -> Figures:
    """Tasks in line, every second one followed: what is said of their places."""
    tasks, chance = 60 if full else 6, random.Random(seed)
    pool = fake_pool(root, "--token-ms", "10")
    with served(root, pool, streams={"metrics_interval_ms": INTERVAL_MS}) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            holder = client.accept(max_tokens=50_000)
            ids = [client.accept(max_tokens=chance.randint(15, 30)) for _ in range(tasks)]
            streams = [client.collecting(task_id) for task_id in ids[1::2]]
            until(lambda: all(_has(stack, i, 1) for i in ids[1::2]), BEGUN_WITHIN_S, "figures")
            assert client.cancel(holder) == 204
            followed = [stream.result() for stream in streams]
            alone = [client.collect(task_id) for task_id in ids[::2]]
    for events in [*followed, *alone]:
        assert_grammar(events)
        assert events[-1].name == "end"
    places = [_places(events) for events in followed]
    return {
        "figures of those followed": at_least(min(map(_figures, followed)), 1),
        "figures of those that were not": exactly(sum(map(_figures, alone)), 0),
        "places that went back": exactly(sum(map(_steps_back, places)), 0),
        "not first before the start": exactly(sum(seen[-1] != 0 for seen in places), 0),
        **stood,
    }


def unfollowed_streams(root: Path, seed: int, full: bool) -> Figures:
    """A task that waits, and one that runs, whose only reader comes and goes."""
    rounds = 40 if full else 2
    away, chance = [], random.Random(seed)
    streams, timeouts = (
        {"metrics_interval_ms": INTERVAL_MS},
        {"drain_ms": 0, "idle_token_ms": 600_000},
    )
    with served(root, fake_pool(root), streams=streams, timeouts=timeouts) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            running = client.accept(prompt="fault=hang-after-1", max_tokens=2)
            tasks = {running: 0, client.accept(): 0}
            for _ in range(rounds):
                for task_id, seen in tasks.items():
                    tasks[task_id] = _seen(stack, task_id, seen)
                time.sleep(AWAY_INTERVALS * INTERVAL_MS / 1000 * chance.uniform(1, 2))
                away += [
                    _has(stack, task_id, seen + ON_THE_WAY + 1) for task_id, seen in tasks.items()
                ]
    return {
        "times that nobody followed": len(away),
        "of them figures were appended": exactly(sum(away), 0),
        "figures that were read": at_least(sum(tasks.values()), 2 * rounds * FRAMES),
        **stood,
    }


def _figures(events: Sequence[Event]) -> int:
    return sum(event.name == "metrics" for event in events)


def _places(events: Sequence[Event]) -> list[int]:
    """What the figures said before the task started."""
    said = [event.data.get("queue_position") for event in events if event.name == "metrics"]
    return [place for place in said if place is not None]


def _steps_back(places: Sequence[int]) -> int:
    return sum(later > earlier for earlier, later in pairwise(places))


def _seen(stack: Stack, task_id: str, after: int) -> int:
    """Follow for a few figures and leave; the last id that may have been given meanwhile."""
    with Wire(stack).follow(task_id, after) as wire:
        frames = list(islice(wire.frames(), FRAMES))
    return event_id(frames[-1])


def _has(stack: Stack, task_id: str, event_id: int) -> bool:
    """Whether the log of a task has this event."""
    with Wire(stack).follow(task_id, after=event_id) as wire:
        return wire.status() != 400
