"""S-7: ids go on rising for whoever followed a task when orchestratord died."""

from __future__ import annotations

import http.client
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

from test_harness.chaos.figures import Bounded, Figures, exactly
from test_harness.chaos.rig import POOL, fake_pool, served, unserved
from test_harness.chaos.streams.wire import Wire, event_id
from test_harness.chaos.waits import until
from test_harness.stack import Stack
from test_harness.task_client import TaskClient

TASKS = 8
INTERVAL_MS = 10
FIRST_DEATH_S, LAST_DEATH_S = 0.02, 0.30
CLEAN_EVERY = 3
FOLLOWED_WITHIN_S = 30.0
BEYOND = 1_100
"""More ids than are set aside when a task of five tokens has its first one."""


class Reader:
    """Follows one task over the lives of the daemon, each time from the last id it saw."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.lives: list[list[int]] = []
        """The ids of each life, in the order they came."""
        self.refused = self.ends = 0

    @property
    def ids(self) -> list[int]:
        """Of all lives."""
        return list(chain.from_iterable(self.lives))

    def read(self, stack: Stack) -> None:
        """Read until the connection ends or breaks."""
        last, life = max(self.ids, default=0), list[int]()
        self.lives.append(life)
        with Wire(stack).follow(self.task_id, last) as wire:
            if wire.status() != 200:
                self.refused += 1
                return
            try:
                for frame in wire.frames():
                    if frame.startswith(b"id: "):
                        life.append(event_id(frame))
                        self.ends += b"\nevent: error\n" in frame
            except (OSError, http.client.HTTPException):
                pass  # The daemon has died.


def killed_while_followed(root: Path, seed: int, full: bool) -> Figures:
    """SIGKILL, and every third time SIGTERM, while waiting tasks are followed."""
    deaths, chance = 60 if full else 3, random.Random(seed)
    with unserved(root, streams={"metrics_interval_ms": INTERVAL_MS}) as stack:
        with TaskClient(stack) as client:
            readers = [Reader(client.accept()) for _ in range(TASKS)]
        for death in range(1, deaths + 1):
            number = signal.SIGKILL if death % CLEAN_EVERY else signal.SIGTERM
            pause_s = chance.uniform(FIRST_DEATH_S, LAST_DEATH_S)
            _die(stack, readers, _has_begun(death), pause_s, number)
        with TaskClient(stack) as client:
            assert [client.cancel(reader.task_id) for reader in readers] == [204] * TASKS
        for reader in readers:
            reader.read(stack)
    gaps = sum(map(_gaps_over_a_stop, readers))
    return _figures(deaths, readers) | {"gaps over a clean stop": exactly(gaps, 0)}


def killed_while_answered(root: Path, seed: int, full: bool) -> Figures:
    """SIGKILL when a running task has sent more figures than ids were set aside for at first."""
    deaths, readers = 20 if full else 1, list[Reader]()
    timeouts = {"drain_ms": 0, "idle_token_ms": 600_000}
    streams = {"metrics_interval_ms": 1}
    with served(root, fake_pool(root), streams=streams, timeouts=timeouts) as stack:
        for _ in range(deaths):
            with TaskClient(stack) as client:
                reader = Reader(client.accept(prompt="fault=hang-after-3", max_tokens=5))
            _die(stack, [reader], lambda one: len(one.ids) > BEYOND, 0.0, signal.SIGKILL)
            reader.read(stack)
            readers.append(reader)
            stack.wait_serving(POOL)
    return _figures(deaths, readers)


def _die(
    stack: Stack,
    readers: Sequence[Reader],
    is_due: Callable[[Reader], bool],
    pause_s: float,
    number: signal.Signals,
) -> None:
    """End the daemon while everybody reads, a pause after it is due for each; start it again."""
    with ThreadPoolExecutor(len(readers)) as threads:
        reading = [threads.submit(reader.read, stack) for reader in readers]
        until(
            lambda: all(reader.refused or is_due(reader) for reader in readers),
            FOLLOWED_WITHIN_S,
            "figures are read",
        )
        time.sleep(pause_s)
        stack.daemons["orchestratord"].stop(number)
        for read in reading:
            read.result()
    stack.start("orchestratord").wait_ready()


def _has_begun(life: int) -> Callable[[Reader], bool]:
    """Whether something came in the life of this number."""
    return lambda reader: len(reader.lives) == life and bool(reader.lives[-1])


def _figures(deaths: int, readers: Sequence[Reader]) -> dict[str, float | Bounded]:
    return {
        "deaths while followed": deaths,
        "events": sum(len(reader.ids) for reader in readers),
        "resumed and refused": exactly(sum(reader.refused for reader in readers), 0),
        "ids that did not rise": exactly(sum(map(_not_rising, readers)), 0),
        "gaps within a life": exactly(sum(map(_gaps_within, readers)), 0),
        "terminal events": exactly(sum(reader.ends for reader in readers), len(readers)),
    }


def _not_rising(reader: Reader) -> int:
    return sum(later <= earlier for earlier, later in pairwise(reader.ids))


def _gaps_within(reader: Reader) -> int:
    return sum(later != earlier + 1 for life in reader.lives for earlier, later in pairwise(life))


def _gaps_over_a_stop(reader: Reader) -> int:
    """Every so many deaths were clean, and the next life must go on at the next id."""
    lives = enumerate(pairwise(reader.lives), start=1)
    return sum(
        [last + 1 for last in before[-1:]] != after[:1]
        for death, (before, after) in lives
        if death % CLEAN_EVERY == 0
    )
