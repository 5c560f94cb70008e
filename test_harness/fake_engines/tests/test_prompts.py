"""Slots, what their caches hold, and how long a prompt takes."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from test_harness.fake_engines.slots import Slot, Slots
from test_harness.fake_engines.tests.conftest import Asked, Serving, progress_of, request_of
from worker_adapters.base import Progress

pytestmark = pytest.mark.anyio

STORY = "once there was a river that went all the way to the sea"
WORDS = len(STORY.split())


async def cached(asked: Asked, prompt: str, **fields: Any) -> int | None:
    return (await asked.finished(prompt, **fields)).cached_tokens


async def test_a_prompt_is_told_of_batch_by_batch(serving: Serving) -> None:
    async with serving("--progress-every", "4") as asked:
        assert progress_of(await asked.items(STORY)) == [0, 4, 8, 12, WORDS]
        # All but the last word is cached now, and that one is evaluated again.
        items = await asked.items(STORY)
    assert [item for item in items if isinstance(item, Progress)] == [
        Progress(WORDS, WORDS - 1, WORDS - 1),
        Progress(WORDS, WORDS - 1, WORDS),
    ]


async def test_only_what_is_not_cached_takes_time(serving: Serving) -> None:
    async with serving("--prefill-ms-per-token", "20") as asked:
        began = time.monotonic()
        await asked.items(STORY)
        took = time.monotonic() - began
        await asked.items(STORY)
        took_again = time.monotonic() - began - took
    assert took >= 0.02 * WORDS
    assert took_again < took / 2


async def test_each_slot_has_a_cache_of_its_own(serving: Serving) -> None:
    async with serving("--slots", "2") as asked:
        assert await cached(asked, STORY, slot=1) == 0
        assert await cached(asked, STORY, slot=0) == 0
        assert await cached(asked, STORY + " and back", slot=1) == WORDS


async def test_without_a_wish_the_slot_that_knows_most_serves(serving: Serving) -> None:
    async with serving("--slots", "3") as asked:
        await asked.items(STORY, slot=2)
        assert await cached(asked, STORY) == WORDS - 1
        assert await cached(asked, STORY, slot=9) == WORDS - 1


async def test_the_cache_holds_what_was_said_too(serving: Serving) -> None:
    async with serving() as asked:
        await asked.items(STORY, max_tokens=2)
        assert await cached(asked, f"{STORY} w0 w1 and more") == WORDS + 2


async def test_a_prompt_may_refuse_the_cache(serving: Serving) -> None:
    async with serving() as asked:
        await asked.items(STORY)
        assert await cached(asked, STORY, cache_prompt=False) == 0


async def test_a_prompt_that_was_broken_off_leaves_what_was_evaluated(serving: Serving) -> None:
    async with serving("--prefill-ms-per-token", "5", "--progress-every", "4") as asked:
        async with aclosing(asked.client.stream(request_of(STORY))) as stream:
            while await anext(stream) != Progress(WORDS, 0, 8):
                pass
        known = await cached(asked, STORY)
    assert known is not None
    assert 8 <= known < WORDS


async def test_nothing_but_streams_is_answered_while_a_prompt_is_evaluated(
    serving: Serving,
) -> None:
    options = ("--prefill-ms-per-token", "20", "--progress-every", "1", "--fault", "stall-health")
    async with serving(*options) as asked, anyio.create_task_group() as group:
        async with aclosing(asked.client.stream(request_of(STORY))) as stream:
            await anext(stream)
            answered = anyio.Event()

            async def observe() -> None:
                await asked.client.observe()
                answered.set()

            group.start_soon(observe)
            while isinstance(await anext(stream), Progress):
                assert not answered.is_set()
            with anyio.fail_after(5):
                await answered.wait()


async def test_who_wants_a_slot_that_is_busy_waits_for_it() -> None:
    slots = Slots(2)
    served: list[str] = []

    async def serve(name: str, wanted: int | None) -> None:
        async with slots.taken(wanted, ()) as slot:
            served.append(f"{name}{slot.number}")

    async with anyio.create_task_group() as group:
        async with slots.taken(0, ()):
            for name, wanted in (("a", 0), ("b", None), ("c", 0)):
                group.start_soon(serve, name, wanted)
            await anyio.wait_all_tasks_blocked()
            assert (served, slots.waiting) == (["b1"], 2)
    assert served == ["b1", "a0", "c0"]


@pytest.mark.parametrize(
    ("held", "wanted", "common"),
    [("a b c", "a b d", 2), ("a b", "a b c", 2), ("a b c", "a b", 2), ("", "a", 0), ("a", "b", 0)],
)
def test_a_cache_knows_a_beginning(held: str, wanted: str, common: int) -> None:
    assert Slot(0, words=held.split()).common(wanted.split()) == common
