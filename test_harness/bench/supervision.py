"""What supervision costs and how soon it acts: idle, after a crash, after its own death."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil

from test_harness.bench.processes import BenchFailed
from test_harness.bench.report import Answer, Figure
from test_harness.stack import Stack, wait_for
from test_harness.supervised import fake_command

REPLICAS = 8
IDLE_S = 20.0
BASE_MS = 200


def measure(root: Path, rounds: int) -> Answer:
    """Eight idle engines; then one is killed, then the manager."""
    stack = Stack(root, [_pool(root)])
    try:
        stack.start("pool_managerd").wait_ready()
        wait_for(lambda: _ready(stack) == REPLICAS, "every engine serves")
        idle = [_cpu_share(stack, IDLE_S) for _ in range(rounds)]
        crashes = [_back_after_crash(stack) for _ in range(rounds)]
        adopted = [_taken_back(stack) for _ in range(rounds)]
    finally:
        stack.stop()
    return Answer(
        question=f"Supervision of {REPLICAS} idle engines",
        measured_how=(
            f"CPU time of pool_managerd over {IDLE_S:g} s; SIGKILL of an engine to its successor"
            f" serving, with a base delay of {BASE_MS} ms; SIGKILL of pool_managerd, and from its"
            " start to every engine taken back"
        ),
        figures=(
            Figure.of("of one core, idle", [100 * share for share in idle], "%", "<= 1"),
            Figure.of("crash to serving again", crashes, "s"),
            Figure.of("start to all taken back", adopted, "s", "<= 3"),
        ),
    )


def _pool(root: Path) -> dict[str, Any]:
    model = root / "model"
    model.write_bytes(b"any file will do")
    return {
        "id": "p",
        "engine": "llamacpp",
        "model": {"id": "m", "ref": f"file:{model}"},
        "replicas": [{"devices": []}] * REPLICAS,
        "provisioning": {"mode": "command", "command": fake_command()},
        "restart": {"base_ms": BASE_MS, "cap_ms": BASE_MS, "intensity": 1_000},
    }


def _replicas(stack: Stack) -> list[dict[str, Any]]:
    with stack.client("pool_managerd") as client:
        return list(client.get("/v1/snapshot").json()["pools"][0]["replicas"])


def _ready(stack: Stack) -> int:
    return sum(replica["state"] == "ready" for replica in _replicas(stack))


def _cpu_share(stack: Stack, seconds: float) -> float:
    """CPU time of the manager by the time that passed."""
    process = psutil.Process(stack.daemons["pool_managerd"].process.pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return float(after.user - before.user + after.system - before.system) / seconds


def _back_after_crash(stack: Stack) -> float:
    pids = {replica["pid"] for replica in _replicas(stack)}
    victim = min(pids)
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_for(
        lambda: _ready(stack) == REPLICAS and {r["pid"] for r in _replicas(stack)} != pids,
        "it serves again",
    )
    return time.monotonic() - began


def _taken_back(stack: Stack) -> float:
    pids = {replica["pid"] for replica in _replicas(stack)}
    stack.daemons["pool_managerd"].stop(signal.SIGKILL)
    daemon = stack.start("pool_managerd")
    daemon.wait_ready()
    wait_for(lambda: _ready(stack) == REPLICAS, "every engine is taken back")
    took = time.monotonic() - daemon.started_at
    if {replica["pid"] for replica in _replicas(stack)} != pids:
        raise BenchFailed("an engine was lost or doubled")
    return took
