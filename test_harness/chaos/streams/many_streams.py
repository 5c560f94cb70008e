"""S-2: many slow streams at once cost little and lose nothing."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

from test_harness.bench.stream_readers import Counted, reading
from test_harness.chaos.figures import Figures, at_least, at_most, exactly, timely
from test_harness.chaos.posters import post_all, task_body, task_id_of
from test_harness.chaos.rig import fake_pool, served
from test_harness.chaos.streams.watch import MIB, Watch
from test_harness.chaos.waits import until
from test_harness.stack import Stack
from test_harness.task_client import TaskClient, assert_grammar

TOKEN_MS = 1_000
GROWTH_MIB = 80
POSTED_AT_ONCE, OPENED_AT_ONCE = 2, 125
"""Few, since it is the open ones that are put to the test."""
LOOK_S = 0.5
CHECKED = 20


def many_streams(root: Path, seed: int, full: bool) -> Figures:
    """A task and a reader for each stream, a token a second and figures every second."""
    streams, tokens = (1_000, 65) if full else (60, 4)
    chance = random.Random(seed)
    pool = fake_pool(root, "--token-ms", str(TOKEN_MS), slots=streams)
    with served(root, pool) as stack, TaskClient(stack) as client:
        bare = Watch(stack).began_bytes
        ids = [task_id_of(chance) for _ in range(streams)]
        answers = post_all(stack, [task_body(task_id, tokens) for task_id in ids], POSTED_AT_ONCE)
        assert {answer.status for answer in answers} == {202}
        with Watch(stack) as watch:
            came = _read_to_the_end(stack, ids, 2.0 * tokens + 10.0)
        for task_id in ids[:CHECKED]:
            assert_grammar(client.collect(task_id))
    return {
        "streams": streams,
        "events": at_least(came.events, streams * (2 + tokens)),
        "events lost": exactly(came.lost, 0),
        "growth by streams, MiB": at_most(watch.growth_mib, GROWTH_MIB),
        "growth by tasks and streams, MiB": (watch.peak_bytes - bare) / MIB,
        "healthz p99, ms": timely(watch.healthz_p99_ms, 100, full),
    }


def _read_to_the_end(stack: Stack, task_ids: list[str], deadline_s: float) -> Counted:
    """Everything that came, on all streams, once all have ended."""
    urls = [f"{stack.url}/v1/tasks/{task_id}/stream" for task_id in task_ids]
    seen: list[Counted] = []

    def ended() -> bool:
        time.sleep(LOOK_S)
        now = [part.count() for part in parts]
        seen.extend(now)
        return sum(part.ended for part in now) == len(task_ids)

    with contextlib.ExitStack() as readers:
        parts = []
        for start in range(0, len(urls), OPENED_AT_ONCE):
            part = urls[start : start + OPENED_AT_ONCE]
            parts.append(readers.enter_context(reading(part, stack.headers)))
            parts[-1].wait_open()
        until(ended, deadline_s, "every stream has ended")
    events, lost = sum(part.events for part in seen), sum(part.lost for part in seen)
    return Counted(events, lost, ended=len(task_ids), quiet=0)
