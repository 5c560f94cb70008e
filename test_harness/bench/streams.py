"""A client that reads event streams and notes when, in the benchmark's own process."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from test_harness.bench.processes import BenchFailed
from worker_adapters.sse import EventParser

SILENCE_S = 30.0
TOKEN_BEGINNINGS = (b'{"t":', b'{"index":0,"content":')
"""How the data of a token begins: orchestratord's, and the engine's."""


@dataclass(frozen=True)
class Endpoint:
    """Where a stream is asked for: the whole request."""

    url: str
    headers: dict[str, str]
    body: bytes


def task_endpoint(url: str, token: str, **fields: Any) -> Endpoint:
    """A task whose stream is the answer to its POST."""
    body = {"model": "tiny", "prompt": "The river", "seed": 1} | fields
    headers = {
        "Accept": "text/event-stream",
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
    }
    return Endpoint(f"{url}/v1/tasks", headers, json.dumps(body).encode())


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that keeps its connections."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S),
    ) as session:
        yield session


async def read_tokens(
    session: aiohttp.ClientSession, endpoint: Endpoint, on_tokens: Callable[[int], None]
) -> int:
    """Read one stream to its end, telling how many tokens came at once; returns their sum."""
    total = 0
    parser = EventParser()
    async with session.post(endpoint.url, data=endpoint.body, headers=endpoint.headers) as answer:
        if answer.status != 200:
            text = (await answer.text())[:300]
            raise BenchFailed(f"{endpoint.url} answered {answer.status}: {text}")
        async for chunk in answer.content.iter_any():
            compact = [data[:40].replace(b" ", b"") for data in parser.feed(chunk)]
            count = sum(data.startswith(TOKEN_BEGINNINGS) for data in compact)
            if count:
                total += count
                on_tokens(count)
    if total == 0:
        raise BenchFailed(f"{endpoint.url} sent no token")
    return total


async def first_token_ms(session: aiohttp.ClientSession, endpoint: Endpoint) -> float:
    """Milliseconds from the request to its first token; the stream is read to its end."""
    seen: list[float] = []
    began = time.perf_counter()
    await read_tokens(session, endpoint, lambda _: seen.append(time.perf_counter()))
    return (seen[0] - began) * 1000
