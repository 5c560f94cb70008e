"""Many POSTs of tasks at once, and what they were answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import uvloop

from test_harness.bench.streams import client
from test_harness.chaos.rig import MODEL
from test_harness.stack import Stack

AT_ONCE = 32


@dataclass(frozen=True)
class Answer:
    """What one request was answered."""

    status: int
    headers: Mapping[str, str]
    """Whatever the case of their names."""
    body: dict[str, Any]


def task_id_of(chance: random.Random) -> str:
    """A task id, the same for the same seed."""
    return str(UUID(int=chance.getrandbits(128), version=4))


def task_body(task_id: str, tokens: int, **fields: Any) -> dict[str, Any]:
    """A task that the stand-in engine answers with so many words."""
    return {
        "task_id": task_id,
        "model": MODEL,
        "prompt": f"len={tokens}",
        "max_tokens": tokens + 1,
        "seed": 1,
    } | fields


def post_all(stack: Stack, bodies: Sequence[dict[str, Any]], at_once: int) -> list[Answer]:
    """Post these tasks, so many at once; the answers in the order of the bodies."""
    return uvloop.run(_post_all(stack, bodies, at_once))


async def _post_all(stack: Stack, bodies: Sequence[dict[str, Any]], at_once: int) -> list[Answer]:
    url, headers, places = f"{stack.url}/v1/tasks", stack.headers, asyncio.Semaphore(at_once)

    async def post(session: aiohttp.ClientSession, body: dict[str, Any]) -> Answer:
        named = headers | {"X-Correlation-Id": body["task_id"]}
        async with places, session.post(url, json=body, headers=named) as answer:
            return Answer(answer.status, answer.headers, await answer.json())

    async with client() as session:
        return await asyncio.gather(*(post(session, body) for body in bodies))
