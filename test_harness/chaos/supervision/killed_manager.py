"""P-4: pool_managerd dies under streams, and its engines do not."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from test_harness.chaos.aftermath import processes_of
from test_harness.chaos.figures import Figures, exactly, timely
from test_harness.chaos.rig import POOL, fake_pool, served
from test_harness.chaos.supervision.watch import replicas
from test_harness.chaos.waits import until
from test_harness.stack import Stack
from test_harness.task_client import Event, TaskClient

ENGINES = 2
STREAMS = 4
TOKEN_MS = 20
ADOPTED_S = 3.0


def killed_manager(root: Path, seed: int, full: bool) -> Figures:
    """SIGKILL at random moments while every slot streams; then everything is counted."""
    kills, chance = 50 if full else 4, random.Random(seed)
    pool = fake_pool(
        root, "--token-ms", str(TOKEN_MS), slots=2, replicas=[{"devices": []}] * ENGINES
    )
    tokens = kills * 250 if full else 400
    longest = 0.0
    with served(root, pool) as stack:
        stack.wait_serving(POOL, ENGINES)
        pids = set(stack.pids_of_replicas(POOL))
        with TaskClient(stack) as client, ThreadPoolExecutor(STREAMS) as threads:
            tasks = [client.accept(max_tokens=tokens) for _ in range(STREAMS)]
            streams = [threads.submit(_events, client, task) for task in tasks]
            until(lambda: _used(stack) == STREAMS, 30.0, "every slot streams")
            lost = doubled = 0
            for _ in range(kills):
                time.sleep(chance.uniform(0.0, 0.3))
                stack.daemons["pool_managerd"].stop(signal.SIGKILL)
                daemon = stack.start("pool_managerd")
                daemon.wait_ready()
                until(lambda: _ready(stack) == ENGINES, 30.0, "the engines are taken back")
                longest = max(longest, time.monotonic() - daemon.started_at)
                found = {replica["pid"] for replica in replicas(stack)}
                lost += len(pids - found)
                doubled += len(found - pids)
            events = [stream.result() for stream in streams]
        engines = [p for p in processes_of(root) if "fake_engines" in " ".join(p.cmdline())]
        doubled += max(0, len(engines) - ENGINES)
    ends = [stream[-1].name for stream in events]
    sent = [sum(event.name == "token" for event in stream) for stream in events]
    return {
        "kills": kills,
        "engines lost": exactly(lost, 0),
        "engines doubled": exactly(doubled, 0),
        "streams that ended well": exactly(ends.count("end"), STREAMS),
        "tokens": exactly(sum(sent), STREAMS * tokens),
        "adoption at most, s": timely(longest, ADOPTED_S, full),
    }


def _events(client: TaskClient, task_id: str) -> list[Event]:
    return list(client.follow(task_id))


def _used(stack: Stack) -> int:
    return sum(int(replica["slots_used"]) for replica in replicas(stack))


def _ready(stack: Stack) -> int:
    return sum(replica["state"] == "ready" for replica in replicas(stack))
