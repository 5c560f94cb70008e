"""S-8: an engine that stops in the middle of an answer is noticed, and its slot comes back."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from test_harness.chaos.figures import Figures, exactly, timely
from test_harness.chaos.rig import POOL, fake_pool, served
from test_harness.chaos.standing import standing
from test_harness.chaos.waits import until
from test_harness.stack import Stack
from test_harness.task_client import TaskClient, assert_grammar

IDLE_MS = 300
SERVES_AGAIN_S = 3.0
TOKENS = 4
RESTART = {"base_ms": 20, "cap_ms": 100, "intensity": 1_000}


def stalled_engines(root: Path, seed: int, full: bool) -> Figures:
    """SIGSTOP of an engine in decode; SIGCONT or SIGKILL after the task has ended."""
    stalls, chance = 40 if full else 2, random.Random(seed)
    noticed, served_again, codes = [], [], []
    pool = fake_pool(root, "--token-ms", "5", restart=RESTART)
    timeouts = {"drain_ms": 0, "idle_token_ms": IDLE_MS}
    with served(root, pool, timeouts=timeouts) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            for stall in range(stalls):
                seconds, code, engine = _stall(stack, client, chance.randint(1, 30))
                noticed.append(seconds)
                codes.append(code)
                os.kill(engine, signal.SIGCONT if stall % 2 else signal.SIGKILL)
                served_again.append(_serves_again(stack, client))
    return {
        "stalls": stalls,
        "of them DECODE_TIMEOUT": exactly(codes.count("DECODE_TIMEOUT"), stalls),
        "noticed after at most, s": timely(max(noticed), IDLE_MS / 1000 + 1.0, full),
        "slot serves again after at most, s": timely(max(served_again), SERVES_AGAIN_S, full),
        **stood,
    }


def _stall(stack: Stack, client: TaskClient, token: int) -> tuple[float, str, int]:
    """Stop the engine at a token; the seconds to the task's end, its code, the engine's pid."""
    engine = stack.pids_of_replicas(POOL)[0]
    task_id, events, stopped_at = client.accept(max_tokens=10_000), [], 0.0
    for event in client.follow(task_id):
        events.append(event)
        if event.name == "token" and event.data["i"] == token:
            os.kill(engine, signal.SIGSTOP)
            stopped_at = time.monotonic()
    seconds = time.monotonic() - stopped_at
    assert_grammar(events)
    assert client.task(task_id)["error"]["code"] == events[-1].data["code"]
    return seconds, events[-1].data["code"], engine


def _serves_again(stack: Stack, client: TaskClient) -> float:
    """How long it takes until the only slot has answered the next task, s."""
    began = time.monotonic()
    events = client.collect(client.accept(max_tokens=TOKENS))
    assert_grammar(events)
    assert events[-1].name == "end"
    took = time.monotonic() - began
    until(lambda: _used_slots(client) == 0, SERVES_AGAIN_S, "its lease is given back")
    return took


def _used_slots(client: TaskClient) -> int:
    health = client.get(f"/v1/pools/{POOL}/health").json()
    return sum(replica["slots_used"] for replica in health["replicas"])
