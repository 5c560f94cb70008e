"""What reading one event of an engine's stream costs, per dialect: bytes in, `StreamItem` out.

The adapter's own client runs, from the chunk that the HTTP client gives it on; the
HTTP client itself is left out.  The events are recorded ones: those of a stream's
middle are repeated.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvloop

from test_harness.bench import report
from test_harness.bench.processes import BenchFailed
from test_harness.bench.report import Figure
from test_harness.conformance.transcripts import recorded
from worker_adapters.base import Finished, GenerationRequest, Token
from worker_adapters.event_stream import EVENT_STREAM
from worker_adapters.registry import new_client
from worker_adapters.transport import Answer, EngineTransport

EVENTS = 20_000
MODELS = b'{"data":[{"id":"tiny"}]}'
REQUEST = GenerationRequest(prompt="x", max_tokens=EVENTS, seed=1, correlation_id="c")


@dataclass(frozen=True)
class Sample:
    """One recorded stream."""

    dialect: str
    """Whose client reads it."""
    engine: str
    """Whose transcripts it is among."""
    transcript: str
    opening: int
    """Events before the first token."""
    closing: int
    """Events after the last one."""


SAMPLES = (
    Sample("llamacpp", "llamacpp", "completion", opening=2, closing=1),
    Sample("openai", "llamacpp", "chat", opening=1, closing=3),
)
"""A new dialect is one line, and its transcript; llama.cpp has a route of OpenAI's API too."""


class Replayed(EngineTransport):
    """A transport whose every stream brings the same chunks, out of memory."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._unread: Iterator[bytes] = iter(())

    async def ask(self, *_: Any, **__: Any) -> Answer:
        """The model list, for clients that begin with it."""
        return Answer(200, {}, MODELS)

    @asynccontextmanager
    async def stream(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """What the HTTP client would give: all that an adapter reads of an answer."""
        self._unread = iter(self._chunks)
        content = SimpleNamespace(iter_any=self._iter_any, readany=self._readany)
        yield SimpleNamespace(
            status=200, content_type=EVENT_STREAM, content=content, url="memory", headers={}
        )

    async def _iter_any(self) -> AsyncIterator[bytes]:
        for chunk in self._unread:
            yield chunk

    async def _readany(self) -> bytes:
        return next(self._unread, b"")


def measure(_root: Path, rounds: int) -> report.Answer:
    """Every dialect that has a recorded stream."""
    return compare(rounds, EVENTS)


def compare(rounds: int, events: int) -> report.Answer:
    """The same with so many events in a stream."""
    figures: list[Figure] = []
    for sample in SAMPLES:
        chunks = chunks_of(sample, events)
        seconds = [uvloop.run(_read(sample.dialect, chunks, events)) for _ in range(rounds)]
        each = [1e6 * spent / len(chunks) for spent in seconds]
        figures += [
            Figure.of(f"{sample.dialect}: an event", each, "µs", "<= 10"),
            Figure.of(f"{sample.dialect}: events", [1e6 / cost for cost in each], "per s"),
        ]
    return report.Answer(
        question="Reading an event of an engine: bytes of the answer to an item of the stream",
        measured_how=(
            f"{rounds} streams of {events:,} recorded token events, one a chunk, through the"
            " adapter's own client in this process; processor time, without sockets and HTTP"
        ),
        figures=tuple(figures),
    )


def chunks_of(sample: Sample, events: int) -> list[bytes]:
    """A stream with so many token events, each in a chunk of its own."""
    _, _, body = recorded(sample.engine)[sample.transcript].partition(b"\r\n\r\n")
    events_of = b"".join(_dechunked(body)).split(b"\n\n")
    came = [event.strip() + b"\n\n" for event in events_of if event.strip()]
    tokens = came[sample.opening : len(came) - sample.closing]
    repeated = itertools.islice(itertools.cycle(tokens), events)
    return [*came[: sample.opening], *repeated, *came[len(came) - sample.closing :]]


def _dechunked(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length:
            yield rest[:length]
        body = rest[length + 2 :]


async def _read(dialect: str, chunks: Sequence[bytes], events: int) -> float:
    """Processor seconds of one stream."""
    client = new_client(dialect, Replayed(chunks), "http://memory", None)
    tokens = finished = 0
    async with aclosing(client.stream(REQUEST)) as stream:
        began = time.process_time()
        async for item in stream:
            tokens += type(item) is Token
            finished += type(item) is Finished
        spent = time.process_time() - began
    if (tokens, finished) != (events, 1):
        raise BenchFailed(f"{dialect}: {tokens} tokens and {finished} ends of {events} events")
    return spent
