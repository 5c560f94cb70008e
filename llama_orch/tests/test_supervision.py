"""What ends the life of both daemons, and that the stop comes before the telling."""

from __future__ import annotations

import os
import signal

import anyio
import anyio.lowlevel
import pytest

from llama_orch.daemons import Daemons
from llama_orch.failures import Failed
from llama_orch.supervision import Supervision

pytestmark = pytest.mark.anyio


class Recorded(Daemons):
    """Daemons that are a list of what was asked of them."""

    def __init__(self, *, dies: bool = False, stops_badly: bool = False) -> None:
        self.asked: list[str] = []
        self._dies = dies
        self._stops_badly = stops_badly
        self._stopping = anyio.Event()

    async def start(self) -> str:
        self.asked.append("start")
        return "http://here"

    async def first_death(self) -> Failed:
        if not self._dies:
            await self._stopping.wait()
        return Failed("orchestratord ended")

    async def stop(self, hurry: anyio.Event) -> None:
        self.asked.append("stop")
        self._stopping.set()
        await anyio.lowlevel.checkpoint()
        if self._stops_badly:
            raise Failed("it was killed")


def supervision(daemons: Daemons) -> Supervision:
    return Supervision(daemons, lambda _: None)


async def at_once(_url: str) -> None:
    """Work that is done."""


async def for_ever(_url: str) -> None:
    """Work that never is."""
    await anyio.sleep_forever()


async def test_work_that_is_done_stops_both_and_their_end_is_no_death() -> None:
    daemons = Recorded()
    assert await supervision(daemons).run(at_once) is None
    assert daemons.asked == ["start", "stop"]


async def test_work_that_fails_stops_both_and_is_told() -> None:
    async def fails(_url: str) -> None:
        raise Failed("no model")

    daemons = Recorded()
    with pytest.raises(Failed, match="no model"):
        await supervision(daemons).run(fails)
    assert daemons.asked == ["start", "stop"]


async def test_a_daemon_that_dies_ends_the_work_and_is_told() -> None:
    daemons = Recorded(dies=True)
    with pytest.raises(Failed, match="orchestratord ended"):
        await supervision(daemons).run(for_ever)
    assert daemons.asked == ["start", "stop"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_work_and_is_returned(number: signal.Signals) -> None:
    async def work(_url: str) -> None:
        os.kill(os.getpid(), number)
        await anyio.sleep_forever()

    daemons = Recorded()
    with anyio.fail_after(5):
        assert await supervision(daemons).run(work) is number
    assert daemons.asked == ["start", "stop"]


async def test_a_signal_before_the_start_starts_nothing() -> None:
    async def prepare() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep_forever()

    daemons = Recorded()
    with anyio.fail_after(5):
        assert await supervision(daemons).run(at_once, prepare) is signal.SIGTERM
    assert daemons.asked == ["stop"]


async def test_a_bad_stop_is_told() -> None:
    with pytest.raises(Failed, match="it was killed"):
        await supervision(Recorded(stops_badly=True)).run(at_once)


async def test_a_defect_in_the_work_still_stops_both() -> None:
    async def breaks(_url: str) -> None:
        raise ZeroDivisionError

    daemons = Recorded()
    with pytest.raises(ExceptionGroup):
        await supervision(daemons).run(breaks)
    assert daemons.asked == ["start", "stop"]


async def test_kept_daemons_are_left_running() -> None:
    daemons = Recorded()
    kept = supervision(daemons)

    async def work(_url: str) -> None:
        kept.keep()

    assert await kept.run(work) is None
    assert daemons.asked == ["start"]
