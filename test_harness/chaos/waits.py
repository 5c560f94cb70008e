"""Waiting for what a scenario needs to have happened, with deadlines."""

from __future__ import annotations

import time
from collections.abc import Callable

from test_harness.stack import Stack

LOOK_EVERY_S = 0.01
ENDED_WITHIN_S = 600.0


def until(look: Callable[[], bool], deadline_s: float, what: str) -> float:
    """Look until it is true; returns the seconds it took, a failure says what was waited for."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() - began < deadline_s, f"not within {deadline_s:g} s: {what}"
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began


def ended(stack: Stack) -> float:
    """Wait until no task is queued or running; the seconds it took."""
    with stack.client() as client:

        def none_left() -> bool:
            pages = [
                client.get("/v1/tasks", params={"state": state, "limit": 1}).json()
                for state in ("queued", "running")
            ]
            return not any(page["items"] for page in pages)

        return until(none_left, ENDED_WITHIN_S, "every task has ended")
