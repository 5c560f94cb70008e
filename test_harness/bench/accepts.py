"""How many tasks a second are accepted for good, and what a budget costs there."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from contracts.ids import new_uuid
from contracts.sessions import TURNS_MAX
from test_harness.bench.loop_lag import AIM_P99, LoopLag
from test_harness.bench.posting import CLIENTS, post_tasks, waiting_task
from test_harness.bench.processes import BenchFailed, cpu_seconds
from test_harness.bench.report import Answer, Figure, percentile
from test_harness.bench.streams import Endpoint
from test_harness.bench.taken_pool import taken_pool
from test_harness.stack import Stack

TASKS = 2_000
ALONE = 200
AMPLE = 10**12
"""A budget that is kept and never used up."""
KINDS: dict[str, dict[str, int] | None] = {
    "no session": None,
    "a time budget": {"budget_time_ms": AMPLE},
    "a token budget": {"budget_tokens": AMPLE},
}
"""What the session of a client is allowed; with a token budget each prompt is counted."""


@dataclass(frozen=True)
class Burst:
    """What `CLIENTS` clients saw at once, and what their tasks cost orchestratord."""

    per_s: float
    p50_ms: float
    cpu_us: float
    lag_p99_ms: float


def measure(root: Path, rounds: int) -> Answer:
    """Fill the queue of a pool whose one slot is taken, so that accepting is all that happens."""
    return compare(root, rounds, TASKS, ALONE)


def compare(root: Path, rounds: int, tasks: int, alone: int) -> Answer:
    """The same with so many tasks by all clients at once, and by one alone."""
    capacity = rounds * (alone + len(KINDS) * tasks)
    with taken_pool(root, capacity=capacity) as stack:
        return _measure(stack, rounds, tasks, alone)


def _measure(stack: Stack, rounds: int, tasks: int, alone: int) -> Answer:
    single: list[list[float]] = []
    bursts: dict[str, list[Burst]] = {kind: [] for kind in KINDS}
    clients = {kind: _clients(stack, settings) for kind, settings in KINDS.items()}
    for _ in range(rounds):
        posted = uvloop.run(post_tasks([waiting_task(stack)], alone))
        single.append([task.took_ms for task in posted])
        for kind, endpoints in clients.items():
            bursts[kind].append(_burst(stack, endpoints, tasks))
    return Answer(
        question="Durable accepts: POST /v1/tasks to its 202",
        measured_how=(
            f"{rounds} rounds of {alone} tasks by one client, then {tasks} by {CLIENTS} for each"
            " kind of session; each on disk before its 202; a token budget has each prompt"
            " counted by the engine; ratios are within a round"
        ),
        figures=(
            *_plain(bursts["no session"], single),
            *_budgeted("a time budget", bursts),
            *_budgeted("a token budget", bursts),
        ),
    )


def _plain(bursts: Sequence[Burst], alone: Sequence[Sequence[float]]) -> tuple[Figure, ...]:
    return (
        Figure.of(f"accepts with {CLIENTS} clients", [b.per_s for b in bursts], "1/s", ">= 1,500"),
        Figure.of(f"202 with {CLIENTS} clients, p50", [b.p50_ms for b in bursts], "ms"),
        Figure.of("202 with one client, p50", [statistics.median(s) for s in alone], "ms", "<= 3"),
        Figure.of("202 with one client, p90", [percentile(s, 0.9) for s in alone], "ms"),
        Figure.of("CPU of an accept, orchestratord", [b.cpu_us for b in bursts], "us"),
        Figure.of("event loop lag, p99", [b.lag_p99_ms for b in bursts], "ms", AIM_P99),
    )


def _budgeted(kind: str, bursts: dict[str, list[Burst]]) -> tuple[Figure, ...]:
    plain, with_budget = bursts["no session"], bursts[kind]
    ratios = [b.cpu_us / a.cpu_us for a, b in zip(plain, with_budget, strict=True)]
    return (
        Figure.of(f"accepts with {kind}", [b.per_s for b in with_budget], "1/s"),
        Figure.of(f"CPU with {kind}, to none", ratios, "x"),
        Figure.of(f"event loop lag with {kind}, p99", [b.lag_p99_ms for b in with_budget], "ms"),
    )


def _burst(stack: Stack, clients: Sequence[Endpoint], tasks: int) -> Burst:
    pid = stack.daemons["orchestratord"].process.pid
    lag, cpu, began = LoopLag(stack), cpu_seconds(pid), time.perf_counter()
    posted = uvloop.run(post_tasks(clients, tasks))
    seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
    return Burst(
        per_s=tasks / seconds,
        p50_ms=statistics.median(task.took_ms for task in posted),
        cpu_us=cpu / tasks * 1e6,
        lag_p99_ms=lag.percentile_ms(0.99),
    )


def _clients(stack: Stack, settings: dict[str, int] | None) -> list[Endpoint]:
    """What each client posts; with `settings` each has a session of its own."""
    if settings is None:
        return [waiting_task(stack)] * CLIENTS
    sessions = [new_uuid() for _ in range(CLIENTS)]
    with stack.client() as client:
        for session_id in sessions:
            body = json.dumps({"max_turns": TURNS_MAX} | settings)
            headers = {"Content-Type": "application/json"}
            answer = client.put(f"/v1/sessions/{session_id}", content=body, headers=headers)
            if answer.status_code != 200:
                raise BenchFailed(f"a session was refused: {answer.text[:300]}")
    return [waiting_task(stack, session_id=session_id) for session_id in sessions]
