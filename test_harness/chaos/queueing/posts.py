"""Many POSTs of tasks at once, each with an id of its own, over many connections."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp

from test_harness.stack import Stack

CONNECTIONS = 300
ANSWER_S = 120.0


@dataclass(frozen=True)
class Post:
    """One POST; its task's id is its correlation id too, by which an engine notes it."""

    task_id: str
    body: bytes

    @classmethod
    def of(cls, chance: random.Random, **fields: Any) -> Post:
        """A task with an id by `chance`; the defaults suit the stand-in engines."""
        task_id = any_id(chance)
        body = {"model": "tiny", "prompt": "The river", "max_tokens": 2, "seed": 1}
        return cls(task_id, json.dumps(body | fields | {"task_id": task_id}).encode())


@dataclass(frozen=True)
class Answer:
    """What came of one POST."""

    task_id: str
    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]


def any_id(chance: random.Random) -> str:
    """A UUID by chance."""
    return str(UUID(int=chance.getrandbits(128), version=4))


def post_all(stack: Stack, posts: Sequence[Post], connections: int = CONNECTIONS) -> list[Answer]:
    """Send them in turn over so many connections at once; their answers, in the order given.

    Over one connection each is answered before the next is sent.
    """
    return asyncio.run(_post_all(stack, posts, connections))


def accepted(answers: Sequence[Answer]) -> list[str]:
    """The ids of those answered 202."""
    return [answer.task_id for answer in answers if answer.status == 202]


async def _post_all(stack: Stack, posts: Sequence[Post], connections: int) -> list[Answer]:
    answers: dict[int, Answer] = {}
    numbered = iter(enumerate(posts))
    async with (
        aiohttp.ClientSession(
            stack.url,
            connector=aiohttp.TCPConnector(limit=0),
            headers=stack.headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=ANSWER_S),
        ) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(min(connections, len(posts))):
            group.create_task(_post_in_turn(session, numbered, answers))
    return [answers[number] for number in range(len(posts))]


async def _post_in_turn(
    session: aiohttp.ClientSession,
    numbered: Iterator[tuple[int, Post]],
    answers: dict[int, Answer],
) -> None:
    for number, post in numbered:
        headers = {"Content-Type": "application/json", "X-Correlation-Id": post.task_id}
        async with session.post("/v1/tasks", data=post.body, headers=headers) as answer:
            body = await answer.json()
            answers[number] = Answer(post.task_id, answer.status, answer.headers, body)
