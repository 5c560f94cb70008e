"""The count of open streams, and the one-way door of a stop."""

from __future__ import annotations

import anyio
import pytest

from contracts.errors import ErrorCode, Refusal
from contracts.service.drain import Drain

pytestmark = pytest.mark.anyio


async def test_streams_are_bounded_and_counted_down() -> None:
    drain = Drain(streams_max=2)
    with drain.stream():
        assert not drain.is_full
    with drain.stream(), drain.stream():
        with pytest.raises(Refusal) as caught, drain.stream():
            pass
        assert caught.value.code is ErrorCode.ADMISSION_REJECT
        assert (drain.streams_open, drain.is_full) == (2, True)
    assert (drain.streams_open, drain.is_full) == (0, False)


async def test_idle_is_waited_for_until_the_last_stream_is_gone() -> None:
    drain = Drain()
    order: list[str] = []

    async def wait() -> None:
        await drain.wait_idle()
        order.append("idle")

    async with anyio.create_task_group() as tasks:
        with drain.stream():
            with drain.stream():
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
            await anyio.wait_all_tasks_blocked()
            order.append("one left")
    assert order == ["one left", "idle"]


async def test_beginning_twice_is_beginning_once() -> None:
    drain = Drain()
    assert not drain.begun
    drain.begin()
    drain.begin()
    await drain.wait_begun()
    assert drain.begun


async def test_nothing_open_is_idle_at_once() -> None:
    with anyio.fail_after(1):
        await Drain().wait_idle()
