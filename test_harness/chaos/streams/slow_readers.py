"""S-1: a reader that takes nothing is dropped, and nobody else notices."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from test_harness.chaos.aftermath import log_lines
from test_harness.chaos.figures import Figures, at_most, exactly, timely
from test_harness.chaos.rig import fake_pool, served
from test_harness.chaos.standing import standing
from test_harness.chaos.streams.watch import MIB, Watch
from test_harness.chaos.streams.wire import Wire
from test_harness.chaos.waits import until
from test_harness.stack import Stack
from test_harness.task_client import TaskClient, assert_grammar, text_of

READERS = 4
SEND_TIMEOUT_MS = 1_000
CUT_WITHIN_S = SEND_TIMEOUT_MS / 1000 + 1.0
BUFFER_BYTES = MIB
RECEIVE_BUFFER = 4_096
TOKENS_MAX = 90_000
NEIGHBOUR_TOKENS = 100
QUIET_FLOODS = 2
"""Before the measured one, so that the allocator has its room."""
COPIES = 5
"""Of a text, at most and for a moment: the log, the pieces, and what goes to the disk."""
SLACK_MIB = 8


@dataclass(frozen=True)
class Flood:
    """What one flood did."""

    growth_mib: float
    healthz_p99_ms: float
    opened_at: float
    """When the task was posted, and the slow ones asked for it, Unix seconds."""
    held: list[int]
    """Bytes sent to each of the others that it never took."""


def slow_readers(root: Path, seed: int, full: bool) -> Figures:
    """Floods with readers that stall, against floods without."""
    megabytes = 50 if full else 5
    limits = {"send_timeout_ms": SEND_TIMEOUT_MS, "stream_buffer_bytes": BUFFER_BYTES}
    streams = {"log_bytes": 2 * megabytes * MIB}
    pool = fake_pool(root, "--token-ms", "5", slots=2)
    with served(root, pool, limits=limits, streams=streams) as stack:
        with standing(stack, full) as stood:
            quiet = [_flood(stack, megabytes, readers=0) for _ in range(QUIET_FLOODS)][-1]
            slow = _flood(stack, megabytes, readers=READERS)
    cut = _cut_off(root)
    last_cut_at = datetime.fromisoformat(cut[-1]["at"]).timestamp()
    growth_most = quiet.growth_mib + READERS * BUFFER_BYTES / MIB + SLACK_MIB
    return {
        "readers cut off": exactly(len(cut), READERS),
        "cut off after at most, s": timely(last_cut_at - slow.opened_at, CUT_WITHIN_S, full),
        "sent to one and not taken, bytes": at_most(max(slow.held), BUFFER_BYTES),
        "growth, MiB": at_most(slow.growth_mib, min(growth_most, COPIES * megabytes + SLACK_MIB)),
        "growth without slow readers, MiB": quiet.growth_mib,
        "healthz p99, ms": timely(slow.healthz_p99_ms, max(2 * quiet.healthz_p99_ms, 50), full),
        "healthz p99 without slow readers, ms": quiet.healthz_p99_ms,
        **stood,
    }


def _flood(stack: Stack, megabytes: int, readers: int) -> Flood:
    """One task that sends so much, a reader that keeps up, others that do not, and a neighbour."""
    with TaskClient(stack) as client, contextlib.ExitStack() as wires, Watch(stack) as watch:
        neighbour = client.collecting(client.accept(max_tokens=NEIGHBOUR_TOKENS))
        opened_at = time.time()
        task_id = client.accept(prompt=f"fault=flood-{megabytes}", max_tokens=TOKENS_MAX)
        stalled = [Wire(stack, RECEIVE_BUFFER).follow(task_id) for _ in range(readers)]
        for wire in stalled:
            wires.enter_context(wire)
        events = client.collect(task_id)
        until(lambda: len(_cut_off(stack.root)) >= readers, 60.0, "slow readers are cut off")
        held = [wire.left() for wire in stalled]
        others = neighbour.result()
        states = {task["state"] for task in client.get("/v1/tasks").json()["items"]}
    assert states == {"succeeded"}
    assert_grammar(events)
    assert len(text_of(events)) == megabytes * 1_000_000
    assert_grammar(others)
    assert others[-1].data["tokens_out"] == NEIGHBOUR_TOKENS
    return Flood(watch.growth_mib, watch.healthz_p99_ms, opened_at, held)


def _cut_off(root: Path) -> list[dict[str, Any]]:
    return list(log_lines(root, "http.reader_cut_off"))
