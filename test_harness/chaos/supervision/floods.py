"""P-8: an engine that writes without end blocks nothing and fills no disk."""

from __future__ import annotations

import time
from pathlib import Path

from test_harness.chaos.figures import Figures, at_least, at_most
from test_harness.chaos.rig import POOL, fake_pool, served
from test_harness.task_client import TaskClient

TOKENS = 600
TOKEN_MS = 4
MIB = 1024 * 1024
LOG_MIB_MAX = 192
"""The bound of a log and its copy, and what a stand-in writes between two looks: a gigabyte a
second."""


def log_flood(root: Path, seed: int, full: bool) -> Figures:
    """Tokens a second with the flood and without, and the most that lay on the disk."""
    quiet, _ = _rate(root / "quiet", full)
    flooded, most = _rate(root / "flooded", full, "--fault", "log-flood")
    return {
        "log at most, MiB": at_most(most / MIB, LOG_MIB_MAX),
        "floods": 1,
        "tokens a second, quiet": quiet,
        "tokens a second, flooded": flooded,
        "flooded to quiet": at_least(flooded / quiet, 0.9 if full else 0.3),
    }


def _rate(root: Path, full: bool, *options: str) -> tuple[float, int]:
    root.mkdir()
    pool = fake_pool(root, "--token-ms", str(TOKEN_MS), *options)
    tokens, most = TOKENS * (5 if full else 1), 0
    with served(root, pool) as stack, TaskClient(stack) as client:
        task = client.accept(max_tokens=tokens)
        began = time.monotonic()
        while client.task(task)["state"] in ("queued", "running"):
            most = max(most, _log_bytes(stack.state_dir))
            time.sleep(0.02)
        took = time.monotonic() - began
        assert client.task(task)["state"] == "succeeded"
        assert stack.pids_of_replicas(POOL)
    return tokens / took, most


def _log_bytes(state_dir: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (state_dir / "logs").iterdir())
