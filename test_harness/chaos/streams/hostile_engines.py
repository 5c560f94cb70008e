"""S-6: whatever an engine sends, a client reads one end, in our words, and the pool serves on."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from test_harness.chaos.figures import Figures, at_most, exactly
from test_harness.chaos.rig import POOL, fake_pool, served
from test_harness.chaos.standing import standing
from test_harness.chaos.streams.watch import MIB, Watch
from test_harness.chaos.streams.wire import Wire
from test_harness.stack import Stack
from test_harness.task_client import TaskClient, assert_grammar, parse, text_of

SLOTS = 4
TOKENS = 40
LATE = 30
"""Tokens before a fault that comes when some have been read."""
FLOOD = "flood-4"
FLOOD_TOKENS = 1_000
LOG_BYTES = 2 * MIB
KEPT = {"log_bytes": LOG_BYTES, "log_total_bytes": 8 * MIB, "retention_ms": 10_000}
"""So that many rounds keep no more than a few logs."""
GROWTH_MIB = 64
"""Those logs, the floods since they were last looked at, and room for the allocator."""

ENDS = {
    f"endless-line-{LATE}": "UPSTREAM_PROTOCOL",
    f"bad-json-{LATE}": "UPSTREAM_PROTOCOL",
    f"foreign-data-{LATE}": "UPSTREAM_PROTOCOL",
    f"cut-chunk-{LATE}": "WORKER_RESET",
    FLOOD: "UPSTREAM_PROTOCOL",
    "endless-line": "UPSTREAM_PROTOCOL",
    "bad-json": "UPSTREAM_PROTOCOL",
    "foreign-data": "UPSTREAM_PROTOCOL",
    "cut-chunk": "POISON",
    "html": "UPSTREAM_PROTOCOL",
    "status-404": "UPSTREAM_PROTOCOL",
    "no-final": "UPSTREAM_PROTOCOL",
    "two-finals": "UPSTREAM_PROTOCOL",
    "bad-figures": "UPSTREAM_PROTOCOL",
    "foreign-events": "end",
    "ignore-n-predict": "end",
}
"""How a stream under each fault ends.

A connection that breaks may mean that the replica died.  When a token was read
the task ends WORKER_RESET, and is run again when none was, three times.
"""
FOREIGN = (b"execute", b"alert", b"retry:", b"nothing", b"<!doctype")
"""What the engine said that is none of ours."""


def hostile_engines(root: Path, seed: int, full: bool) -> Figures:
    """Streams under every fault at once, again and again, with good ones among them."""
    rounds, chance = 30 if full else 1, random.Random(seed)
    pool = fake_pool(root, "--token-ms", "1", slots=SLOTS)
    with served(root, pool, streams=KEPT) as stack:
        with standing(stack, full) as stood, TaskClient(stack) as client:
            with Watch(stack) as watch:
                wrong = [line for _ in range(rounds) for line in _round(stack, client, chance)]
            _assert_every_slot_serves(client)
    assert not wrong, wrong
    return {
        "streams under a fault": rounds * len(ENDS),
        "streams that end otherwise": exactly(len(wrong), 0),
        "growth, MiB": at_most(watch.growth_mib, GROWTH_MIB),
        **stood,
    }


def _round(stack: Stack, client: TaskClient, chance: random.Random) -> list[str]:
    """Each fault once, beside as many good streams; a line for each one that is not as it must."""
    faults = [*ENDS, *[None] * len(ENDS)]
    chance.shuffle(faults)
    with ThreadPoolExecutor(len(faults)) as threads:
        return list(filter(None, threads.map(partial(_finding, stack, client), faults)))


def _finding(stack: Stack, client: TaskClient, fault: str | None) -> str | None:
    """What is wrong with a stream under this fault; None: nothing."""
    prompt = "The river" if fault is None else f"The river fault={fault}"
    task_id = client.accept(prompt=prompt, max_tokens=FLOOD_TOKENS if fault == FLOOD else TOKENS)
    with Wire(stack).follow(task_id) as wire:
        frames = list(wire.frames())
    foreign = [word for word in FOREIGN if any(word in frame for frame in frames)]
    events = list(parse(frame + b"\n\n" for frame in frames))
    assert_grammar(events)
    assert text_of(events) == client.task(task_id)["text"]
    last = events[-1]
    end = "end" if last.name == "end" else last.data["code"]
    wanted = "end" if fault is None else ENDS[fault]
    return None if (end, foreign) == (wanted, []) else f"{fault}: {end}, {foreign}"


def _assert_every_slot_serves(client: TaskClient) -> None:
    """Tasks that fill every slot at one time all end well."""
    streams = [client.collecting(client.accept(max_tokens=TOKENS)) for _ in range(SLOTS)]
    assert [stream.result()[-1].name for stream in streams] == ["end"] * SLOTS
    health = client.get(f"/v1/pools/{POOL}/health").json()
    assert (health["ready"], health["restarts"]) == (True, 0)
