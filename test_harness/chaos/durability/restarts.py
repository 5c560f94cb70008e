"""Ends and beginnings of orchestratord: with a queue, with streams, and standing still."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from test_harness.bench.posting import CLIENTS, post_tasks, waiting_task
from test_harness.chaos.aftermath import log_lines
from test_harness.chaos.durability.attempts import runs_of
from test_harness.chaos.durability.following import Following
from test_harness.chaos.durability.history import wait_ended
from test_harness.chaos.figures import Figures, at_least, at_most, exactly
from test_harness.chaos.rig import fake_pool, served, unserved
from test_harness.stack import Stack
from test_harness.task_client import TaskClient

LOOKED_AT = 100
GRACE_S = 5.0
"""What a stop may take beyond `timeouts.drain_ms`."""
ENDED_WITHIN_S = 120.0
TOKEN_MS = 20
LONG = 1_000_000
SOON_MS, LATE_MS = 1_500, 600_000
IDLE_TOKEN_MS = 1_000


def restart_with_queue(root: Path, seed: int, full: bool) -> Figures:
    """Killed with a long queue, it is back soon, with everybody in their place."""
    tasks, ready_s = (10_000, 2.0) if full else (1_000, 10.0)
    with unserved(root) as stack:
        posted = uvloop.run(post_tasks([waiting_task(stack)] * CLIENTS, tasks))
        sample = random.Random(seed).sample([task.task_id for task in posted], LOOKED_AT)
        before = _places(stack, sample)
        assert stack.daemons["orchestratord"].stop(signal.SIGKILL) == -signal.SIGKILL
        took_s = stack.start("orchestratord").wait_ready()
        after = _places(stack, sample)
        with TaskClient(stack) as client:
            last = client.task(client.accept())["queue_position"]
        recovered = [line["count"] for line in log_lines(root, "tasks_recovered")]
    return {
        "tasks recovered": exactly(sum(recovered), tasks),
        "ready after, s": at_most(took_s, ready_s),
        "tasks looked at": len(before),
        "out of place": exactly(sum(a != b for a, b in zip(before, after, strict=True)), 0),
        "place of a new one": exactly(last, tasks),
    }


def clean_stop(root: Path, seed: int, full: bool) -> Figures:
    """SIGTERM with streams open: each gets its last event and a whole body, nothing is lost."""
    streams, queued, drain_ms = (50, 50, 5_000) if full else (8, 4, 1_000)
    pool = fake_pool(root, "--token-ms", str(TOKEN_MS), slots=streams)
    with served(root, pool, timeouts={"drain_ms": drain_ms}) as stack:
        with TaskClient(stack) as client:
            short = [_following(stack, client, drain_ms // 2) for _ in range(streams // 2)]
            long = [_following(stack, client, LONG) for _ in range(streams - len(short))]
            for reader in (*short, *long):
                reader.wait_token()
            waiting = [Following(stack, client.accept(max_tokens=2)) for _ in range(queued)]
        began = time.monotonic()
        code = stack.daemons["orchestratord"].stop()
        took_s = time.monotonic() - began
        for reader in short:
            reader.whole_and_well(GRACE_S)
        ends = [reader.whole(GRACE_S)[-1] for reader in (*long, *waiting)]
        stack.start("orchestratord").wait_ready()
        lives_on = [reader.task_id for reader in waiting]
        wait_ended(stack, lives_on, ENDED_WITHIN_S)
        with TaskClient(stack) as client:
            states = [client.task(task_id)["state"] for task_id in lives_on]
            codes = [client.task(reader.task_id)["error"]["code"] for reader in long]
    shut_down = [event.data.get("code") for event in ends].count("SHUTTING_DOWN")
    return {
        "exit code": exactly(code, 0),
        "stopped after, s": at_most(took_s, drain_ms / 1000 + GRACE_S),
        "streams that ended well": len(short),
        "streams that were cut": exactly(shut_down, len(ends)),
        "of these told so afterwards": exactly(codes.count("SHUTTING_DOWN"), len(long)),
        "queued tasks": queued,
        "run after the next start": exactly(states.count("succeeded"), queued),
    }


def stopped_daemon(root: Path, seed: int, full: bool) -> Figures:
    """SIGSTOP for longer than a token may take: nothing ends that was not due."""
    stopped_s = 60.0 if full else 2.0
    tokens, log = round((stopped_s + 2) * 1000 / TOKEN_MS), root / "attempts.jsonl"
    options = ("--token-ms", str(TOKEN_MS), "--attempts-log", str(log))
    timeouts = {"drain_ms": 0, "idle_token_ms": IDLE_TOKEN_MS, "first_token_ms": IDLE_TOKEN_MS}
    with served(root, fake_pool(root, *options, slots=2), timeouts=timeouts) as stack:
        with TaskClient(stack) as client:
            running = [_reading(stack, client, tokens) for _ in range(2)]
            for reader in running:
                reader.wait_token()
            late = [_queued(stack, client, LATE_MS) for _ in range(2)]
            soon = [_queued(stack, client, SOON_MS) for _ in range(2)]
            process = stack.daemons["orchestratord"].process
            process.send_signal(signal.SIGSTOP)
            time.sleep(stopped_s)
            process.send_signal(signal.SIGCONT)
            for reader in (*running, *late):
                reader.whole_and_well(ENDED_WITHIN_S)
            ends = [reader.whole(ENDED_WITHIN_S)[-1].data.get("code") for reader in soon]
            never = [client.task(reader.task_id)["correlation_id"] for reader in soon]
        runs = runs_of(log)
    return {
        "stood still, s": at_least(min(r.longest_gap_s for r in running), 0.9 * stopped_s),
        "streams that ended well": len(running) + len(late),
        "expired, being due": exactly(ends.count("DEADLINE_UNMET"), len(soon)),
        "of these run": exactly(sum(name in runs for name in never), 0),
    }


def _following(stack: Stack, client: TaskClient, lasts_ms: int) -> Following:
    return _reading(stack, client, max(1, lasts_ms // TOKEN_MS))


def _reading(stack: Stack, client: TaskClient, tokens: int) -> Following:
    return Following(stack, client.accept(max_tokens=tokens))


def _queued(stack: Stack, client: TaskClient, deadline_ms: int) -> Following:
    return Following(stack, client.accept(max_tokens=2, deadline_ms=deadline_ms))


def _places(stack: Stack, task_ids: Sequence[str]) -> list[int | None]:
    with TaskClient(stack) as client:
        return [client.task(task_id)["queue_position"] for task_id in task_ids]
