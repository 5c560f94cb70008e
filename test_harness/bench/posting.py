"""Clients that post tasks and do not wait for their streams."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import aiohttp

from test_harness.bench.processes import BenchFailed
from test_harness.bench.streams import Endpoint, client, task_endpoint
from test_harness.stack import Stack

CLIENTS = 32


@dataclass(frozen=True)
class Posted:
    """One accepted task, and how long its 202 took."""

    task_id: str
    took_ms: float


def waiting_task(stack: Stack, **fields: object) -> Endpoint:
    """A task whose POST is answered with 202."""
    task = task_endpoint(stack.url, stack.token, **{"max_tokens": 2_000} | fields)
    del task.headers["Accept"]
    return task


async def post_tasks(endpoints: Sequence[Endpoint], tasks: int) -> list[Posted]:
    """Post so many tasks, one client for each endpoint, each over a connection it keeps.

    Returns:
        One entry a task, in the order of their answers.
    """
    async with client() as session:
        return await post_over(session, endpoints, tasks)


async def post_over(
    session: aiohttp.ClientSession, endpoints: Sequence[Endpoint], tasks: int
) -> list[Posted]:
    """The same over the connections of a session that is there already."""
    posted: list[Posted] = []
    numbers = iter(range(tasks))
    async with asyncio.TaskGroup() as group:
        for endpoint in endpoints:
            group.create_task(_one_client(session, endpoint, numbers, posted))
    return posted


async def _one_client(
    session: aiohttp.ClientSession, endpoint: Endpoint, numbers: Iterator[int], posted: list[Posted]
) -> None:
    for _ in numbers:
        began = time.perf_counter()
        async with session.post(
            endpoint.url, data=endpoint.body, headers=endpoint.headers
        ) as answer:
            body = await answer.read()
            took_ms = (time.perf_counter() - began) * 1000
            if answer.status != 202:
                raise BenchFailed(f"{endpoint.url} answered {answer.status}: {body[:300]!r}")
        posted.append(Posted(json.loads(body)["task_id"], took_ms))
