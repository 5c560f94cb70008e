"""What a thousand open event streams take, each with one event a second."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from test_harness.bench.loop_lag import AIM_P99, LoopLag
from test_harness.bench.posting import CLIENTS, post_tasks, waiting_task
from test_harness.bench.processes import BenchFailed, cpu_seconds, paced_engine, resident_mb
from test_harness.bench.report import Answer, Figure, percentile
from test_harness.bench.stream_readers import Readers, reading
from test_harness.bench.taken_pool import KEY, TOKEN_MS, external_pool, taken_pool
from test_harness.stack import Stack, running_stack, wait_for

STREAMS = 1_000
SETTLE_S = 3.0
WINDOW_S = 10.0
BUSY_SLOTS = 100
"""Tasks that run while the streams of others wait behind them."""
PROBE_EVERY_S = 0.02
RARELY_MS = 3_600_000
"""Between two `metrics` events of a task whose tokens are its events."""


@dataclass(frozen=True)
class Held:
    """What orchestratord took in one window while the streams were open."""

    added_mb: float
    cpu_share: float
    rate: float
    """Events of a stream in a second."""
    lost: int
    silent: int
    """Streams that had ended, or on which nothing came."""
    healthz_p50_ms: float
    healthz_p99_ms: float
    lag_p99_ms: float


def measure(root: Path, rounds: int) -> Answer:
    """Follow tasks that wait, whose events are figures, and tasks that run, whose are tokens."""
    return compare(root, rounds, STREAMS, SETTLE_S, WINDOW_S)


def compare(root: Path, rounds: int, streams: int, settle_s: float, window_s: float) -> Answer:
    """The same with so many streams; the windows begin `settle_s` after they are open."""
    pools: dict[str, Callable[[Path, int], AbstractContextManager[Stack]]] = {
        "waiting": partial(_waiting, slots=1),
        f"behind {BUSY_SLOTS}": partial(_waiting, slots=BUSY_SLOTS),
        "running": _running,
    }
    found: dict[str, list[Held]] = {}
    for number, (kind, pool) in enumerate(pools.items()):
        home = root / str(number)
        home.mkdir()
        with pool(home, streams) as stack:
            found[kind] = _held(stack, rounds, streams, settle_s, window_s)
    return Answer(
        question=f"{streams:,} open event streams, one event a second on each",
        measured_how=(
            f"{rounds} windows of {window_s:g} s each, read by a process of its own: tasks that"
            f" wait for one slot and behind {BUSY_SLOTS} running ones, a `metrics` event a second;"
            " tasks that run, a token a second; RSS is what opening the streams added; GET"
            f" /healthz every {PROBE_EVERY_S * 1000:g} ms"
        ),
        figures=tuple(
            figure for kind, windows in found.items() for figure in _figures(kind, windows)
        ),
    )


def _figures(kind: str, windows: list[Held]) -> tuple[Figure, ...]:
    return (
        Figure.of(f"{kind}: RSS added", [w.added_mb for w in windows], "MB", "<= 80"),
        Figure.of(f"{kind}: CPU", [w.cpu_share for w in windows], "s/s"),
        Figure.of(f"{kind}: events of a stream", [w.rate for w in windows], "1/s", "about 1"),
        Figure.of(f"{kind}: events lost", [w.lost for w in windows], "", "0"),
        Figure.of(f"{kind}: streams ended or silent", [w.silent for w in windows], "", "0"),
        Figure.of(f"{kind}: GET /healthz, p50", [w.healthz_p50_ms for w in windows], "ms"),
        Figure.of(
            f"{kind}: GET /healthz, p99", [w.healthz_p99_ms for w in windows], "ms", "<= 100"
        ),
        Figure.of(f"{kind}: loop lag, p99", [w.lag_p99_ms for w in windows], "ms", AIM_P99),
    )


@contextlib.contextmanager
def _waiting(root: Path, streams: int, *, slots: int) -> Iterator[Stack]:
    """A stack whose slots are taken, with room for the streams in line."""
    limits = {"streams": 2 * streams, "connections": 2 * streams}
    with taken_pool(root, capacity=slots + streams, slots=slots, limits=limits) as stack:
        yield stack


@contextlib.contextmanager
def _running(root: Path, streams: int) -> Iterator[Stack]:
    """A stack with a slot for each task."""
    with paced_engine(root, slots=streams, token_ms=TOKEN_MS, api_key=KEY) as engine:
        with running_stack(
            root,
            [external_pool(root, engine, streams)],
            queue={"capacity": streams},
            limits={"streams": 2 * streams, "connections": 2 * streams},
            streams={"metrics_interval_ms": RARELY_MS},
            timeouts={"drain_ms": 0},
        ) as stack:
            stack.wait_serving("paced")
            yield stack


def _held(stack: Stack, rounds: int, streams: int, settle_s: float, window_s: float) -> list[Held]:
    posted = uvloop.run(post_tasks([waiting_task(stack)] * CLIENTS, streams))
    urls = [f"{stack.url}/v1/tasks/{task.task_id}/stream" for task in posted]
    _wait_for_line(stack)
    before_mb = resident_mb(stack.daemons["orchestratord"].process.pid)
    with reading(urls, stack.headers) as readers:
        readers.wait_open()
        time.sleep(settle_s)
        return [_window(stack, readers, before_mb, streams, window_s) for _ in range(rounds)]


def _wait_for_line(stack: Stack) -> None:
    """Until every task that has a slot runs: until the line no longer gets shorter."""
    with stack.client() as client:

        def stands() -> bool:
            before = client.get("/v1/pools").json()["items"][0]
            time.sleep(0.5)
            after = client.get("/v1/pools").json()["items"][0]
            return bool(before["queue_depth"] == after["queue_depth"])

        wait_for(stands, "the tasks that can run do so")


def _window(
    stack: Stack, readers: Readers, before_mb: float, streams: int, window_s: float
) -> Held:
    pid = stack.daemons["orchestratord"].process.pid
    readers.count()
    lag, cpu, began = LoopLag(stack), cpu_seconds(pid), time.perf_counter()
    probes = _probe(stack.url, window_s)
    counted = readers.count()
    seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
    return Held(
        added_mb=resident_mb(pid) - before_mb,
        cpu_share=cpu / seconds,
        rate=counted.events / seconds / streams,
        lost=counted.lost,
        silent=counted.ended + counted.quiet,
        healthz_p50_ms=percentile(probes, 0.5),
        healthz_p99_ms=percentile(probes, 0.99),
        lag_p99_ms=lag.percentile_ms(0.99),
    )


def _probe(url: str, seconds: float) -> list[float]:
    """Milliseconds of each GET /healthz, one after the other over one connection."""
    address = urlsplit(url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    took, deadline = [], time.perf_counter() + seconds
    with contextlib.closing(connection):
        while (began := time.perf_counter()) < deadline:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise BenchFailed(f"/healthz answered {answer.status}")
            took.append((time.perf_counter() - began) * 1000)
            time.sleep(PROBE_EVERY_S)
    return took
