"""Equal requests give equal bytes on real llama.cpp with one slot, whatever happened before.

A text that is sampled at a high temperature shows it: one bit more or less in one
score moves it onto another path within some tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from contracts.tasks import Message
from worker_adapters.base import Finished, GenerationRequest, StreamItem, Token
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.tests.conftest import RunningEngine, running
from worker_adapters.transport import EngineTransport

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SEEDS = tuple(range(100, 108))
LONG = " ".join(f"stone {number} and river {number}" for number in range(30))
SHORT = "The river"
CHAT = (Message(role="user", content="tell of a stone"),)


@pytest.fixture(scope="module")
def one_slot(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """The fast model, one slot of 512 tokens."""
    with running(models / "tiny.gguf", tmp_path_factory.mktemp("one") / "log", slots=1) as served:
        yield served


def request_of(
    seed: int, prompt: str | None = SHORT, *, cache_prompt: bool = False
) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt,
        messages=None if prompt is not None else CHAT,
        max_tokens=80,
        seed=seed,
        temperature=1.2,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        cache_prompt=cache_prompt,
        slot=0,
        correlation_id="c",
    )


Reading = tuple[tuple[str, ...], Finished]
"""Each piece of text as it came, and the figures but for the cache."""


async def read(
    engine: RunningEngine, transport: EngineTransport, ask: GenerationRequest
) -> Reading:
    client = LlamaCppClient(transport, engine.base_url, engine.api_key)
    items: list[StreamItem] = []
    async with aclosing(client.stream(ask)) as stream:
        items += [item async for item in stream]
    last = items[-1]
    assert isinstance(last, Finished)
    pieces = tuple(item.text for item in items if isinstance(item, Token))
    return pieces, Finished(last.finish_reason, last.tokens_in, last.tokens_out, None, last.slot)


async def all_of(
    engine: RunningEngine, transport: EngineTransport, prompt: str | None, *, cached: bool = False
) -> list[Reading]:
    return [
        await read(engine, transport, request_of(seed, prompt, cache_prompt=cached))
        for seed in SEEDS
    ]


@pytest.mark.parametrize("prompt", [SHORT, LONG, None], ids=["short", "long", "chat"])
async def test_equal_requests_give_equal_bytes_in_any_order_and_another_seed_others(
    one_slot: RunningEngine, transport: EngineTransport, prompt: str | None
) -> None:
    """LO-WRK-116."""
    first = await all_of(one_slot, transport, prompt)
    assert len(set(first)) == len(SEEDS)
    for seed, before in reversed(list(zip(SEEDS, first, strict=True))):
        await read(one_slot, transport, request_of(seed + 1000, LONG[:300], cache_prompt=True))
        assert await read(one_slot, transport, request_of(seed, prompt)) == before


@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["short", "long"])
async def test_a_prompt_that_lies_in_the_cache_changes_no_byte_of_one_that_does_not_use_it(
    one_slot: RunningEngine, transport: EngineTransport, prompt: str
) -> None:
    """LO-WRK-116: whole, in part, and after it was put aside for another one."""
    cold = await all_of(one_slot, transport, prompt)
    await all_of(one_slot, transport, prompt, cached=True)
    assert await all_of(one_slot, transport, prompt) == cold
    for seed, before in zip(SEEDS, cold, strict=True):
        await read(one_slot, transport, request_of(seed, "Another prompt", cache_prompt=True))
        half = prompt[: len(prompt) // 2]
        await read(one_slot, transport, request_of(seed, half, cache_prompt=True))
        assert await read(one_slot, transport, request_of(seed, prompt)) == before


async def test_requests_that_wait_behind_each_other_change_no_byte(
    one_slot: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-116: with one slot nothing is ever batched with them."""
    alone = await all_of(one_slot, transport, LONG)
    crowd: dict[int, Reading] = {}

    async def ask(seed: int) -> None:
        crowd[seed] = await read(one_slot, transport, request_of(seed, LONG))

    async with anyio.create_task_group() as group:
        for seed in SEEDS:
            group.start_soon(ask, seed)
    assert [crowd[seed] for seed in SEEDS] == alone


async def test_a_stream_that_was_left_changes_no_byte_of_the_next(
    one_slot: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-116."""
    before = await read(one_slot, transport, request_of(SEEDS[0], LONG))
    client = LlamaCppClient(transport, one_slot.base_url, one_slot.api_key)
    for seed in SEEDS:
        async with aclosing(client.stream(replace(request_of(seed), max_tokens=400))) as stream:
            while not isinstance(await anext(stream), Token):
                pass
        assert await read(one_slot, transport, request_of(SEEDS[0], LONG)) == before


async def test_what_is_held_to_a_schema_is_as_exact(
    one_slot: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-116: the trial of the schema leaves nothing behind."""
    schema = {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3}
    asked = [replace(request_of(seed, LONG), json_schema=schema) for seed in SEEDS]
    first = [await read(one_slot, transport, ask) for ask in asked]
    assert len(set(first)) > 1
    assert [await read(one_slot, transport, ask) for ask in reversed(asked)] == first[::-1]
    plain = request_of(SEEDS[0], LONG)
    before = await read(one_slot, transport, plain)
    await read(one_slot, transport, asked[0])
    assert await read(one_slot, transport, plain) == before


async def test_a_restarted_engine_and_a_second_one_give_the_same_bytes(
    one_slot: RunningEngine, models: Path, transport: EngineTransport, tmp_path: Path
) -> None:
    """LO-WRK-116."""
    before = await all_of(one_slot, transport, LONG)
    for start in range(2):
        with running(models / "tiny.gguf", tmp_path / f"log{start}", slots=1) as another:
            assert await all_of(another, transport, LONG) == before


async def test_an_engine_of_one_slot_says_that_it_can_be_strict_and_one_of_two_that_it_cannot(
    one_slot: RunningEngine, engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-108."""
    one, two = [
        await LlamaCppClient(transport, served.base_url, served.api_key).capabilities()
        for served in (one_slot, engine)
    ]
    assert one.strict_refusal is None
    assert two.strict_refusal is not None
    assert "slots: 1" in two.strict_refusal
