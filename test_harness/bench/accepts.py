"""How many tasks a second are accepted for good."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import aiohttp
import uvloop

from test_harness.bench.processes import BenchFailed, paced_engine
from test_harness.bench.report import Answer, Figure, percentile
from test_harness.bench.streams import Endpoint, client, task_endpoint
from test_harness.stack import Stack, running_stack

CLIENTS = 32
TASKS = 2_000
ALONE = 200
KEY = "a-key-for-a-benchmark"


def measure(root: Path, rounds: int) -> Answer:
    """Fill the queue of a pool whose one slot is taken, so that accepting is all that happens."""
    with paced_engine(root, slots=1, token_ms=1000, api_key=KEY) as engine:
        key_file = root / "engine.key"
        key_file.write_text(KEY)
        key_file.chmod(0o600)
        pool = {
            "id": "paced",
            "engine": "llamacpp",
            "model": {"id": "tiny", "ref": "file:/none"},
            "ctx": 4096,
            "replicas": [{"devices": []}],
            "provisioning": {"mode": "external", "url": engine.url, "api_key_file": str(key_file)},
        }
        capacity = {"capacity": rounds * (TASKS + ALONE) + 1}
        with running_stack(root, [pool], queue=capacity, timeouts={"drain_ms": 0}) as stack:
            stack.wait_serving("paced")
            return _measure(stack, rounds)


def _measure(stack: Stack, rounds: int) -> Answer:
    task = task_endpoint(stack.url, stack.token, max_tokens=2_000)
    del task.headers["Accept"]
    uvloop.run(_accept(task, 1, 1))
    many, one = [], []
    for _ in range(rounds):
        one.append(uvloop.run(_accept(task, 1, ALONE)))
        began = time.perf_counter()
        latencies = uvloop.run(_accept(task, CLIENTS, TASKS))
        many.append((len(latencies) / (time.perf_counter() - began), latencies))
    return Answer(
        question="Durable accepts: POST /v1/tasks to its 202",
        measured_how=(
            f"{rounds} rounds of {ALONE} tasks by one client, then {TASKS} by {CLIENTS};"
            " each on disk before its 202"
        ),
        figures=(
            Figure.of(f"accepts with {CLIENTS} clients", [rate for rate, _ in many], "1/s"),
            Figure.of(
                f"202 with {CLIENTS} clients, p50",
                [statistics.median(latencies) for _, latencies in many],
                "ms",
            ),
            Figure.of("202 with one client, p50", [statistics.median(s) for s in one], "ms"),
            Figure.of("202 with one client, p90", [percentile(s, 0.9) for s in one], "ms"),
        ),
    )


async def _accept(endpoint: Endpoint, clients: int, tasks: int) -> list[float]:
    """Milliseconds of each accept."""
    latencies: list[float] = []

    async def one_client(session: aiohttp.ClientSession, count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            async with session.post(
                endpoint.url, data=endpoint.body, headers=endpoint.headers
            ) as answer:
                if answer.status != 202:
                    raise BenchFailed(f"answered {answer.status}: {await answer.text()}")
                await answer.read()
            latencies.append((time.perf_counter() - began) * 1000)

    async with client() as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one_client(session, tasks // clients + (number < tasks % clients)))
    return latencies
