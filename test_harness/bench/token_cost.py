"""What one token event costs orchestratord, beside a bare relay of the same events."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from test_harness.bench.processes import Server, cpu_seconds, line_relay, paced_engine
from test_harness.bench.report import Answer, Figure
from test_harness.bench.streams import Endpoint, client, read_tokens, task_endpoint
from test_harness.bench.taken_pool import KEY, external_pool
from test_harness.stack import Stack, running_stack
from worker_adapters.base import GenerationRequest
from worker_adapters.llamacpp_dialect import completion_body

STREAMS = 32
TOKEN_MS = 20.0
TOKENS = 500
EDGE_TOKENS = 25
"""Tokens of a stream left out at each end, so that no stream is opening or closing."""
ONE_TOKEN_TASKS = 400
ONE_TOKEN_CLIENTS = 8


@dataclass(frozen=True)
class Cost:
    """One round of one relay."""

    event_us: float
    """CPU of one token event while every stream is in full flow."""
    whole_us: float
    """CPU of the whole round, opening and closing included, over its token events."""
    events_per_s: float


class Window:
    """The time in which all streams flow: from the last to begin to the first to end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._counts = [0] * STREAMS
        self._flowing = 0
        self._began: tuple[float, float, int] | None = None
        self.cost: tuple[float, float, int] | None = None
        """CPU seconds, seconds and events of the window, once it has closed."""

    def note(self, stream: int, count: int) -> None:
        """So many tokens of a stream came."""
        before = self._counts[stream]
        after = self._counts[stream] = before + count
        if before < EDGE_TOKENS <= after:
            self._flowing += 1
            if self._flowing == STREAMS:
                self._began = self._now()
        if after > TOKENS - EDGE_TOKENS and self.cost is None and self._began:
            cpu, at, events = (
                end - begin for begin, end in zip(self._began, self._now(), strict=True)
            )
            self.cost = cpu, at, int(events)

    def _now(self) -> tuple[float, float, int]:
        return cpu_seconds(self._pid), time.perf_counter(), sum(self._counts)


def measure(root: Path, rounds: int) -> Answer:
    """Alternate rounds of orchestratord and of the relay on one engine."""
    with paced_engine(root, slots=STREAMS, token_ms=TOKEN_MS, api_key=KEY) as engine:
        with (
            running_stack(root, [external_pool(root, engine, STREAMS)]) as stack,
            line_relay(root, engine) as relay,
        ):
            stack.wait_serving("paced")
            return _compare(stack, relay, rounds)


def _compare(stack: Stack, relay: Server, rounds: int) -> Answer:
    pid = stack.daemons["orchestratord"].process.pid
    manager = stack.daemons["pool_managerd"].process.pid
    task = task_endpoint(stack.url, stack.token, max_tokens=TOKENS)
    short = task_endpoint(stack.url, stack.token, max_tokens=1)
    asked = GenerationRequest(prompt="The river", max_tokens=TOKENS, seed=1, correlation_id="")
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    direct = Endpoint(f"{relay.url}/relay", headers, completion_body("The river", asked))
    ours, theirs, admissions, leases = [], [], [], []
    for _ in range(rounds):
        ours.append(uvloop.run(_round(task, pid)))
        theirs.append(uvloop.run(_round(direct, relay.pid)))
        before = cpu_seconds(pid), cpu_seconds(manager)
        uvloop.run(_one_token_tasks(short))
        admissions.append((cpu_seconds(pid) - before[0]) / ONE_TOKEN_TASKS * 1e6)
        leases.append((cpu_seconds(manager) - before[1]) / ONE_TOKEN_TASKS * 1e6)
    pairs = list(zip(ours, theirs, strict=True))
    return Answer(
        question=f"CPU of a token event: {STREAMS} streams, a token every {TOKEN_MS:g} ms",
        measured_how=(
            f"{rounds} alternating rounds of {TOKENS} tokens a stream on one engine and one client;"
            f" in flow leaves out {EDGE_TOKENS} tokens at each end; ratios are within a round"
        ),
        figures=(
            Figure.of("orchestratord, in flow", [c.event_us for c in ours], "us/event"),
            Figure.of("bare relay, in flow", [c.event_us for c in theirs], "us/event"),
            Figure.of(
                "ratio, in flow",
                [a.event_us / b.event_us for a, b in pairs],
                "x",
                "<= 1.3",
            ),
            Figure.of("orchestratord, whole round", [c.whole_us for c in ours], "us/event"),
            Figure.of("bare relay, whole round", [c.whole_us for c in theirs], "us/event"),
            Figure.of("ratio, whole round", [a.whole_us / b.whole_us for a, b in pairs], "x"),
            Figure.of("events through orchestratord", [c.events_per_s for c in ours], "1/s"),
            Figure.of("events through the relay", [c.events_per_s for c in theirs], "1/s"),
            Figure.of("a task of one token, orchestratord", admissions, "us/task"),
            Figure.of("a task of one token, pool_managerd", leases, "us/task"),
        ),
    )


async def _round(endpoint: Endpoint, pid: int) -> Cost:
    window = Window(pid)
    before = cpu_seconds(pid)
    async with client() as session, asyncio.TaskGroup() as group:
        for stream in range(STREAMS):
            note = partial(window.note, stream)
            group.create_task(read_tokens(session, endpoint, note))
            # Spread over one pace, so that the engine's tokens do not all come at once.
            await asyncio.sleep(TOKEN_MS / 1000 / STREAMS)
    whole = cpu_seconds(pid) - before
    assert window.cost is not None
    cpu, seconds, events = window.cost
    return Cost(
        event_us=cpu / events * 1e6,
        whole_us=whole / (STREAMS * TOKENS) * 1e6,
        events_per_s=events / seconds,
    )


async def _one_token_tasks(endpoint: Endpoint) -> None:
    async def one_client() -> None:
        for _ in range(ONE_TOKEN_TASKS // ONE_TOKEN_CLIENTS):
            await read_tokens(session, endpoint, lambda _: None)

    async with client() as session, asyncio.TaskGroup() as group:
        for _ in range(ONE_TOKEN_CLIENTS):
            group.create_task(one_client())
