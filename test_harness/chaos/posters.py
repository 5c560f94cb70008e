"""Many requests at once, and what they were answered."""

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
Views = Mapping[str, Mapping[str, Any] | None]
"""Tasks as GET tells them; None where it says 404."""


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
    """Post these, so many at once; the answers in the order of the bodies."""
    return uvloop.run(_ask_all(stack, "POST", ["/v1/tasks"] * len(bodies), at_once, bodies))


def views_of(stack: Stack, task_ids: Sequence[str]) -> Views:
    """Each task as GET tells it now."""
    paths = [f"/v1/tasks/{task_id}" for task_id in task_ids]
    answers = uvloop.run(_ask_all(stack, "GET", paths, AT_ONCE))
    for answer in answers:
        assert answer.status in {200, 404}, answer
    return {
        task_id: answer.body if answer.status == 200 else None
        for task_id, answer in zip(task_ids, answers, strict=True)
    }


async def _ask_all(
    stack: Stack,
    method: str,
    paths: Sequence[str],
    at_once: int,
    bodies: Sequence[dict[str, Any]] | None = None,
) -> list[Answer]:
    url, headers = stack.url, stack.headers
    places = asyncio.Semaphore(at_once)

    async def ask(session: aiohttp.ClientSession, index: int) -> Answer:
        body = None if bodies is None else bodies[index]
        named = headers if body is None else headers | {"X-Correlation-Id": body["task_id"]}
        async with (
            places,
            session.request(method, url + paths[index], json=body, headers=named) as answer,
        ):
            return Answer(answer.status, answer.headers, await answer.json())

    async with client() as session:
        return await asyncio.gather(*(ask(session, index) for index in range(len(paths))))
