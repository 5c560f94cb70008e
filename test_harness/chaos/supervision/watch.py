"""What pool_managerd shows, as scenarios ask for it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from test_harness.chaos.aftermath import log_lines
from test_harness.chaos.rig import POOL
from test_harness.stack import Stack


def health(stack: Stack) -> dict[str, Any]:
    """The health of the pool, from the manager itself."""
    with stack.client("pool_managerd") as client:
        return dict(client.get(f"/v1/pools/{POOL}/health").json())


def replicas(stack: Stack) -> list[dict[str, Any]]:
    """Every replica of the pool."""
    return list(health(stack)["replicas"])


def reason(stack: Stack) -> str | None:
    """Of the newest failure."""
    error = health(stack)["last_error"]
    return None if error is None else str(error["reason"])


def times_of(root: Path, event: str) -> list[float]:
    """When the daemons logged an event, Unix seconds."""
    return [datetime.fromisoformat(line["at"]).timestamp() for line in log_lines(root, event)]
