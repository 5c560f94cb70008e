"""What the suite asks of a client, and how it reads the answers."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import anyio

from worker_adapters.base import (
    EngineClient,
    Finished,
    GenerationRequest,
    Progress,
    StreamItem,
    Token,
)
from worker_adapters.errors import EngineError

ANSWER_S = 30.0


def request_of(prompt: str | None = "The river", **fields: Any) -> GenerationRequest:
    """A request for five tokens, unless it says otherwise."""
    given: dict[str, Any] = {"max_tokens": 5, "seed": 1, "correlation_id": "c"}
    return GenerationRequest(prompt=prompt, **(given | fields))


async def items_of(client: EngineClient, request: GenerationRequest) -> list[StreamItem]:
    """Everything of one stream."""
    with anyio.fail_after(ANSWER_S):
        async with aclosing(client.stream(request)) as stream:
            return [item async for item in stream]


async def failure_of(
    client: EngineClient, request: GenerationRequest
) -> tuple[list[StreamItem], EngineError]:
    """What came of a stream that must fail, and how it failed."""
    came: list[StreamItem] = []
    with anyio.fail_after(ANSWER_S):
        try:
            async with aclosing(client.stream(request)) as stream:
                async for item in stream:
                    came.append(item)
        except EngineError as error:
            return came, error
    raise AssertionError(f"the stream ended well: {came[-1:]}")


def text_of(items: list[StreamItem]) -> str:
    """The text of a stream."""
    return "".join(item.text for item in items if isinstance(item, Token))


def finished_of(items: list[StreamItem]) -> Finished:
    """Its end; the order and number of its items are checked on the way."""
    *before, last = items
    assert isinstance(last, Finished)
    assert not any(isinstance(item, Finished) for item in before)
    assert all(item.text for item in before if isinstance(item, Token))
    first = next((i for i, item in enumerate(before) if isinstance(item, Token)), len(before))
    told = [item for item in before if isinstance(item, Progress)]
    assert not any(isinstance(item, Progress) for item in before[first:])
    processed = [item.processed_tokens for item in told]
    assert processed == sorted(set(processed))
    return last
