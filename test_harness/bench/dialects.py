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
from urllib.parse import urlsplit

import uvloop

from test_harness.bench import report
from test_harness.bench.processes import BenchFailed
from test_harness.bench.report import Figure
from test_harness.conformance.transcripts import FOLDER
from worker_adapters.base import Finished, GenerationRequest, Token
from worker_adapters.event_stream import EVENT_STREAM
from worker_adapters.registry import new_client
from worker_adapters.transport import Answer, EngineTransport

EVENTS = 20_000
TRITON_MODEL = (
    b'{"name":"tiny","inputs":[{"name":"text_input"},{"name":"max_tokens"}],'
    b'"outputs":[{"name":"text_output"}]}'
)
ANSWERS = {
    "/v1/models": b'{"data":[{"id":"tiny"}]}',
    "/v2/repository/index": b'[{"name":"tiny","version":"1","state":"READY"}]',
    "/v2/models/tiny": TRITON_MODEL,
}
"""What clients ask before a stream, for its model."""
REQUEST = GenerationRequest(prompt="x", max_tokens=EVENTS, seed=1, correlation_id="c")


@dataclass(frozen=True)
class Sample:
    """One recorded stream."""

    dialect: str
    """Whose client reads it."""
    engine: str
    """Whose transcripts it is among."""
    transcript: str
    """`NAME.http`, an answer as it came, or `NAME.events`, the body alone."""
    opening: int
    """Events before the first token."""
    closing: int
    """Events after the last one."""
    last: int = 0
    """Tokens among those, where one comes with the reason to end."""


SAMPLES = (
    Sample("llamacpp", "llamacpp", "completion.http", opening=2, closing=1),
    Sample("openai", "llamacpp", "chat.http", opening=1, closing=3),
    Sample("vllm", "vllm", "200-completion.events", opening=0, closing=3, last=1),
    Sample("tgi", "tgi", "stream.http", opening=0, closing=1),
    Sample("triton", "triton", "stream.http", opening=0, closing=0),
)
"""A new dialect is one line, and its transcript; llama.cpp has a route of OpenAI's API too."""


class Replayed(EngineTransport):
    """A transport whose every stream brings the same chunks, out of memory."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._unread: Iterator[bytes] = iter(())

    async def ask(self, method: str, url: str, **_: Any) -> Answer:
        """What is asked of the model, for clients that begin with that."""
        return Answer(200, {}, ANSWERS[urlsplit(url).path])

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
        seconds = [uvloop.run(_read(sample, chunks, events)) for _ in range(rounds)]
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
    events_of = _body(sample).split(b"\n\n")
    came = [event.strip() + b"\n\n" for event in events_of if event.strip()]
    tokens = came[sample.opening : len(came) - sample.closing]
    repeated = itertools.islice(itertools.cycle(tokens), events)
    return [*came[: sample.opening], *repeated, *came[len(came) - sample.closing :]]


def _body(sample: Sample) -> bytes:
    kept = (FOLDER / sample.engine / sample.transcript).read_bytes()
    if sample.transcript.endswith(".events"):
        return kept
    return b"".join(_dechunked(kept.partition(b"\r\n\r\n")[2]))


def _dechunked(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length:
            yield rest[:length]
        body = rest[length + 2 :]


async def _read(sample: Sample, chunks: Sequence[bytes], events: int) -> float:
    """Processor seconds of one stream."""
    client = new_client(sample.dialect, Replayed(chunks), "http://memory", None)
    tokens = finished = 0
    async with aclosing(client.stream(REQUEST)) as stream:
        began = time.process_time()
        async for item in stream:
            tokens += type(item) is Token
            finished += type(item) is Finished
        spent = time.process_time() - began
    if (tokens, finished) != (events + sample.last, 1):
        raise BenchFailed(
            f"{sample.dialect}: {tokens} tokens and {finished} ends of {events} events"
        )
    return spent
