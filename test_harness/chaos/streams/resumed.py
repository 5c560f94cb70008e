"""S-7: a reader that comes back goes on at the next event, and all readers see the same bytes."""

from __future__ import annotations

import random
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from test_harness.chaos.figures import Figures, at_least, exactly
from test_harness.chaos.rig import fake_pool, served
from test_harness.chaos.standing import standing
from test_harness.chaos.streams.wire import Wire
from test_harness.stack import Stack
from test_harness.task_client import TaskClient, assert_grammar, parse, text_of

OFTEN = {"metrics_interval_ms": 20}
READ_MOST = 12
"""Events of one connection, before it breaks."""
READERS = 8
TOKENS = 100


def resumed_streams(root: Path, seed: int, full: bool) -> Figures:
    """One reader whose connection breaks again and again, then many that come in at once."""
    breaks, rounds = (200, 30) if full else (25, 1)
    chance = random.Random(seed)
    with served(root, fake_pool(root, "--token-ms", "3"), streams=OFTEN) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            seen, whole = _broken_again_and_again(stack, client, breaks, chance)
            tasks = (client.accept(max_tokens=TOKENS) for _ in range(rounds))
            others = [_others_than_the_first(stack, task_id, chance) for task_id in tasks]
    figures = sum(b"\nevent: metrics\n" in frame for frame in seen)
    return {
        "connections broken": breaks,
        "figures among the events": at_least(figures, 1),
        "events": len(seen),
        "events lost, repeated or changed": exactly(_differing(seen, whole), 0),
        "readers beside a first one": rounds * READERS,
        "of them saw something else": exactly(sum(others), 0),
        **stood,
    }


def _broken_again_and_again(
    stack: Stack, client: TaskClient, breaks: int, chance: random.Random
) -> tuple[list[bytes], list[bytes]]:
    """What came of a running task over broken connections, and what comes of it at once."""
    seen: list[bytes] = []
    task_id = client.accept(max_tokens=50_000)
    for _ in range(breaks):
        seen += _broken_off(stack, task_id, len(seen), chance)
    assert client.task(task_id)["state"] == "running"
    assert client.cancel(task_id) == 204
    seen += _read(stack, task_id, len(seen))
    events = list(parse(frame + b"\n\n" for frame in seen))
    assert_grammar(events)
    assert text_of(events) == client.task(task_id)["text"]
    return seen, _read(stack, task_id, 0)


def _broken_off(stack: Stack, task_id: str, after: int, chance: random.Random) -> list[bytes]:
    """The next events, at least one; what has come beyond them is thrown away."""
    with Wire(stack).follow(task_id, after) as wire:
        frames = list(islice(wire.frames(), chance.randint(1, READ_MOST)))
        chance.choice([wire.reset, wire.close])()
    return frames


def _others_than_the_first(stack: Stack, task_id: str, chance: random.Random) -> int:
    """How many of the readers that came later did not see what the first one saw from there."""
    whole: list[bytes] = []
    others: list[tuple[int, Future[list[bytes]]]] = []
    with Wire(stack).follow(task_id) as first, ThreadPoolExecutor(READERS) as threads:
        for frame in first.frames():
            whole.append(frame)
            if len(others) < READERS and len(whole) > 3 * len(others):
                after = chance.randrange(len(whole))
                others.append((after, threads.submit(_read, stack, task_id, after)))
        assert len(others) == READERS
        return sum(other.result() != whole[after:] for after, other in others)


def _read(stack: Stack, task_id: str, after: int) -> list[bytes]:
    with Wire(stack).follow(task_id, after) as wire:
        return list(wire.frames())


def _differing(some: list[bytes], others: list[bytes]) -> int:
    """Frames that are not the same at the same place."""
    same = sum(one == other for one, other in zip(some, others, strict=False))
    return max(len(some), len(others)) - same
