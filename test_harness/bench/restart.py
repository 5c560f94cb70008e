"""How soon a killed orchestratord serves again, with a long queue and with none."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import uvloop

from test_harness.bench.posting import CLIENTS, post_tasks, waiting_task
from test_harness.bench.processes import resident_mb, start_until_ready
from test_harness.bench.report import Answer, Figure
from test_harness.stack import Stack

TASKS = 10_000
LOOKED_AT = 200
"""Tasks whose place in line is compared, spread over all of it."""


def measure(root: Path, rounds: int) -> Answer:
    """Kill and start it empty, fill the queue, kill and start it again."""
    return compare(root, rounds, TASKS)


def compare(root: Path, rounds: int, tasks: int) -> Answer:
    """The same with so many tasks.

    pool_managerd is not started: there is no ready replica then, and the start of
    orchestratord has the machine for itself.
    """
    stack = Stack(root, [_pool()], queue={"capacity": tasks})
    try:
        start_until_ready(stack, "orchestratord")
        empty = [_start_again(stack) for _ in range(rounds)]
        posted = uvloop.run(post_tasks([waiting_task(stack)] * CLIENTS, tasks))
        places = _places(stack, [task.task_id for task in posted][:: max(1, tasks // LOOKED_AT)])
        full, moved, resident = [], [], []
        for _ in range(rounds):
            full.append(_start_again(stack))
            found = _places(stack, list(places))
            moved.append(sum(found[task_id] != place for task_id, place in places.items()))
            resident.append(resident_mb(stack.daemons["orchestratord"].process.pid))
    finally:
        stack.stop()
    return Answer(
        question=f"Restart after SIGKILL with {tasks:,} tasks in line",
        measured_how=(
            f"{rounds} starts of each kind on one database; process start to 200 from /readyz;"
            f" the places of {len(places)} tasks before and after"
        ),
        figures=(
            Figure.of("start with the queue", full, "s", "<= 2"),
            Figure.of("start with none", empty, "s"),
            Figure.of(
                "a queued task adds",
                [1e6 * (a - b) / tasks for a, b in zip(full, empty, strict=True)],
                "us",
            ),
            Figure.of("tasks out of place", moved, "", "0"),
            Figure.of("RSS after it", resident, "MB"),
        ),
    )


def _pool() -> dict[str, object]:
    return {
        "id": "away",
        "engine": "llamacpp",
        "model": {"id": "tiny", "ref": "file:/none"},
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "external", "url": "http://127.0.0.1:9"},
    }


def _start_again(stack: Stack) -> float:
    stack.daemons["orchestratord"].stop(signal.SIGKILL)
    return start_until_ready(stack, "orchestratord")


def _places(stack: Stack, task_ids: Sequence[str]) -> dict[str, int | None]:
    with stack.client() as client:
        return {
            task_id: client.get(f"/v1/tasks/{task_id}").json()["queue_position"]
            for task_id in task_ids
        }
