"""P-6 and P-7: an engine that looks healthy and is dead, and one that looks dead and works."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from test_harness.chaos.figures import Figures, exactly, timely
from test_harness.chaos.rig import POOL, fake_pool, served
from test_harness.chaos.supervision.watch import health, reason, replicas
from test_harness.chaos.waits import until
from test_harness.task_client import TaskClient

CANARY_MS, STALL_MS = 1_500, 1_500
LOOK_S = 1.2
"""The shortest time between two looks at an engine."""
LONG_PREFILL = 2_000
SIGN_MS = 384
"""Between two signs of progress of a prefill, at any scale; several come within `STALL_MS`."""


def frozen_while_idle(root: Path, seed: int, full: bool) -> Figures:
    """P-6: nothing is asked of it, and it could not do it; its port takes connections."""
    rounds = 5 if full else 1
    longest = 0.0
    supervision = {"canary_ms": CANARY_MS, "stall_ms": STALL_MS}
    with served(root, fake_pool(root), supervision=supervision) as stack:
        for _ in range(rounds):
            [pid] = stack.pids_of_replicas(POOL)
            os.kill(pid, signal.SIGSTOP)
            took = until(lambda: not health(stack)["ready"], 60.0, "it is ejected")
            longest = max(longest, took)
            assert reason(stack) == "NOT_PROGRESSING"
            until(lambda: health(stack)["ready"], 60.0, "another one serves")
            stack.wait_serving(POOL)
    bound = CANARY_MS / 1_000 + 2 * LOOK_S + 5.0 + STALL_MS / 1_000
    return {
        "engines frozen": rounds,
        "until it was ejected at most, s": timely(longest, bound, full),
    }


def half_alive(root: Path, seed: int, full: bool) -> Figures:
    """P-6: health answers 200, and every stream hangs; it stays out until it is exchanged."""
    timeouts = {"idle_token_ms": STALL_MS, "first_token_ms": 4_000, "drain_ms": 0}
    pool = fake_pool(root, "--fault", "hang-after-3")
    with served(root, pool, timeouts=timeouts) as stack, TaskClient(stack) as client:
        hung = client.accept(max_tokens=10)
        began = time.monotonic()
        until(lambda: client.task(hung)["state"] == "failed", 60.0, "its clock runs out")
        until(lambda: reason(stack) == "NOT_PROGRESSING", 60.0, "it is ejected")
        took = time.monotonic() - began
        code = client.task(hung)["error"]["code"]
        stack.wait_serving(POOL)
    return {
        "hung streams": 1,
        "ended DECODE_TIMEOUT": exactly(code == "DECODE_TIMEOUT", True),
        "until it was under suspicion, s": timely(took, STALL_MS / 1_000 + 2.0, full),
    }


def long_prefill(root: Path, seed: int, full: bool) -> Figures:
    """P-7: health is silent for many probes, while the prompt moves on."""
    supervision = {"stall_ms": STALL_MS, "canary_ms": CANARY_MS}
    seconds = 60 if full else 12
    per_token_ms = 1_000 * seconds / LONG_PREFILL
    pool = fake_pool(
        root,
        *("--prefill-ms-per-token", str(per_token_ms)),
        *("--progress-every", str(round(SIGN_MS / per_token_ms))),
        *("--fault", "stall-health"),
    )
    timeouts = {"first_token_ms": 30_000, "drain_ms": 0}
    with served(root, pool, supervision=supervision, timeouts=timeouts) as stack:
        [before] = stack.pids_of_replicas(POOL)
        with TaskClient(stack) as client:
            task = client.accept(prompt="word " * LONG_PREFILL, max_tokens=3)
            began = time.monotonic()
            until(lambda: client.task(task)["state"] in ("succeeded", "failed"), 300.0, "it ends")
            took = time.monotonic() - began
            state = client.task(task)["state"]
        [after] = [replica["pid"] for replica in replicas(stack)]
        restarts = health(stack)["restarts"]
    return {
        "silent prefills": 1,
        "prefill, s": took,
        "tasks that ended well": exactly(state == "succeeded", True),
        "kills": exactly(restarts + (before != after), 0),
    }
