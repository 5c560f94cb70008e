"""What must hold of a daemon while it is put to the test: its loop, its files, its children.

A stack of `rig` notes how its last orchestratord stood when the scenario was done with
it; `aftermath` reads the notes.  `standing` also counts open files around a block.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from test_harness.chaos.figures import SHORT_SLACK, Bounded, at_most, exactly
from test_harness.stack import Stack

NOTES = "standing.jsonl"
LAG_FAMILY = "event_loop_lag_seconds"
LAG_P99_S = 0.05
LAG_MOST_S = 0.25
FILES_SPREAD = 5
SETTLED_WITHIN_S = 10.0


@contextlib.contextmanager
def standing(stack: Stack, full: bool) -> Iterator[dict[str, Bounded]]:
    """Watch orchestratord around the block; the figures are there once it is left.

    It has to be the same process at both ends.
    """
    figures: dict[str, Bounded] = {}
    process = psutil.Process(stack.daemons["orchestratord"].process.pid)
    files = process.num_fds()
    yield figures
    figures |= loop_lag(stack, full)
    now = _settled_files(process, files)
    figures["open files more or less"] = at_most(abs(now - files), FILES_SPREAD)
    figures["zombies"] = exactly(zombies(stack), 0)


def note(stack: Stack) -> None:
    """Write down how orchestratord stands, unless it was stopped."""
    if stack.daemons["orchestratord"].process.poll() is not None:
        return
    buckets = _lag_buckets(stack)
    told = [_bucket_of(buckets, 0.99), _bucket_of(buckets, 1.0), zombies(stack)]
    with (stack.root / NOTES).open("a") as notes:
        notes.write(json.dumps(told) + "\n")


def noted(root: Path, full: bool) -> dict[str, Bounded]:
    """The worst of all notes below `root`; none where there are none."""
    lines = [line for notes in root.rglob(NOTES) for line in notes.read_text().splitlines()]
    if not lines:
        return {}
    p99, most, dead = (max(told) for told in zip(*map(json.loads, lines), strict=True))
    return _lag_figures(p99, most, full) | {"zombies": exactly(dead, 0)}


def loop_lag(stack: Stack, full: bool) -> dict[str, Bounded]:
    """How late the event loop of orchestratord was since its start, by its own histogram.

    The figures are the bounds of buckets: the truth is at most that.
    """
    buckets = _lag_buckets(stack)
    return _lag_figures(_bucket_of(buckets, 0.99), _bucket_of(buckets, 1.0), full)


def zombies(stack: Stack) -> int:
    """Dead children of the daemons that nobody has waited for."""
    pids = [daemon.process.pid for daemon in stack.daemons.values()]
    alive = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    children = [child for process in alive for child in process.children(recursive=True)]
    return sum(child.status() == psutil.STATUS_ZOMBIE for child in children)


def _lag_figures(p99: float, most: float, full: bool) -> dict[str, Bounded]:
    slack = 1.0 if full else SHORT_SLACK
    return {
        "loop lag p99, s": at_most(p99, LAG_P99_S * slack),
        "loop lag at most, s": at_most(most, LAG_MOST_S * slack),
    }


def _settled_files(process: psutil.Process, wanted: int) -> int:
    """Open files once they are near `wanted`: closed connections take a moment to go."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while abs(process.num_fds() - wanted) > FILES_SPREAD and time.monotonic() < deadline:
        time.sleep(0.05)
    return int(process.num_fds())


def _bucket_of(buckets: dict[float, float], share: float) -> float:
    wanted = share * buckets[math.inf]
    return next(bound for bound in sorted(buckets) if buckets[bound] >= wanted)


def _lag_buckets(stack: Stack) -> dict[float, float]:
    with stack.client() as client:
        text = client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        float(sample.labels["le"]): sample.value
        for sample in families[LAG_FAMILY].samples
        if sample.name == f"{LAG_FAMILY}_bucket"
    }
