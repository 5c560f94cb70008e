"""A process of its own that follows many event streams and counts what comes.

It is apart so that its work does not delay whoever measures, and shares no loop
with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import aiohttp
import uvloop

from test_harness.bench.processes import BenchFailed
from test_harness.bench.streams import client

OPEN_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0

_ID = re.compile(rb"^id: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Counted:
    """What came since the last time it was asked."""

    events: int
    lost: int
    """Ids that were passed over, repeated, or out of order; each is an event lost or doubled."""
    ended: int
    """Streams that are no longer open."""
    quiet: int
    """Streams on which nothing came."""


class Readers:
    """The process, asked through a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def count(self) -> Counted:
        """What came since the last call."""
        self._pipe.send("count")
        return self._answer(STOP_DEADLINE_S)

    def wait_open(self) -> None:
        """Return once every stream has had its first event."""
        ended = self._answer(OPEN_DEADLINE_S).ended
        if ended:
            raise BenchFailed(f"{ended} streams were refused, or ended at once")

    def _answer(self, deadline_s: float) -> Counted:
        if not self._pipe.poll(deadline_s):
            raise BenchFailed(f"the readers of streams said nothing for {deadline_s:g} s")
        try:
            answer: Counted = self._pipe.recv()
        except EOFError as error:
            raise BenchFailed("the readers of streams have ended") from error
        return answer


@contextlib.contextmanager
def reading(urls: Sequence[str], headers: dict[str, str]) -> Iterator[Readers]:
    """Follow streams, all at once, around the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        # Not as arguments: `start` would write them to a child that may have died, for ever.
        ours.send((urls, headers))
        yield Readers(ours)
    finally:
        ours.close()
        process.join(STOP_DEADLINE_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


class _Tally:
    """One stream: the id of its newest event, and what came since the last count."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        """Set by its first event, or by its end."""
        self.ended = False
        self._newest = 0
        self._events = 0
        self._lost = 0

    def note(self, event_id: int) -> None:
        """An event came."""
        self._lost += abs(event_id - self._newest - 1)
        self._newest = event_id
        self._events += 1
        self.begun.set()

    def end(self) -> None:
        """The stream is over."""
        self.ended = True
        self.begun.set()

    def take(self) -> tuple[int, int]:
        """Events and losses since the last call."""
        taken = self._events, self._lost
        self._events = self._lost = 0
        return taken


def _run(pipe: Connection) -> None:
    urls, headers = pipe.recv()
    uvloop.run(_follow_all(urls, headers, pipe))


async def _follow_all(urls: Sequence[str], headers: dict[str, str], pipe: Connection) -> None:
    tallies = [_Tally() for _ in urls]
    async with client() as session, asyncio.TaskGroup() as group:
        streams = [
            group.create_task(_follow(session, url, headers, tally))
            for url, tally in zip(urls, tallies, strict=True)
        ]
        for tally in tallies:
            await tally.begun.wait()
        with contextlib.suppress(EOFError, OSError):  # until the other side has gone
            while True:
                pipe.send(_counted(tallies))
                await asyncio.to_thread(pipe.recv)
        for stream in streams:
            stream.cancel()


async def _follow(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], tally: _Tally
) -> None:
    rest = b""
    try:
        async with session.get(url, headers=headers) as answer:
            if answer.status == 200:
                async for chunk in answer.content.iter_any():
                    *frames, rest = (rest + chunk).split(b"\n\n")
                    for frame in frames:
                        found = _ID.search(frame)
                        if found:
                            tally.note(int(found[1]))
    except (aiohttp.ClientError, OSError):
        pass  # it has ended, and is counted so
    finally:
        tally.end()


def _counted(tallies: Sequence[_Tally]) -> Counted:
    taken = [tally.take() for tally in tallies]
    return Counted(
        events=sum(events for events, _ in taken),
        lost=sum(lost for _, lost in taken),
        ended=sum(tally.ended for tally in tallies),
        quiet=sum(events == 0 for events, _ in taken),
    )
