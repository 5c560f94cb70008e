"""S-5: text arrives as the engine meant it, however its bytes were cut and framed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

from test_harness.bench.processes import Server, paced_engine
from test_harness.bench.taken_pool import KEY, external_pool
from test_harness.chaos.figures import Figures, exactly
from test_harness.chaos.rig import POOL, served
from test_harness.chaos.standing import standing
from test_harness.chaos.streams.engine_bytes import chunks_of
from test_harness.chaos.streams.wire import Wire, event_id
from test_harness.fake_engines.event_writer import BOM
from test_harness.fake_engines.faults import ODD_WORDS
from test_harness.stack import Stack
from test_harness.task_client import TaskClient, assert_grammar, text_of

SLOTS = 4
TOKENS_MOST = 20

Chunks = Sequence[bytes]


def odd_bytes(root: Path, seed: int, full: bool) -> Figures:
    """Every fault of framing alone, then chance mixtures of them."""
    rounds, chance = 400 if full else 8, random.Random(seed)
    with paced_engine(root, slots=SLOTS, token_ms=0.1, api_key=KEY) as engine:
        pool = external_pool(root, engine, SLOTS) | {"id": POOL}
        with served(root, pool) as stack:
            reached = sum(_is_reached(engine, fault) for fault in MARKS)
            with standing(stack, full) as stood, TaskClient(stack) as client:
                mixtures = [*([fault] for fault in MARKS), *_mixtures(chance, rounds)]
                wrong = [odd for odd in mixtures if not _survives(stack, client, odd, chance)]
    return {
        "faults seen in the engine's bytes": exactly(reached, len(MARKS)),
        "streams": len(mixtures),
        "texts that differ": exactly(len(wrong), 0),
        **stood,
    }


def _mixtures(chance: random.Random, count: int) -> list[list[str]]:
    return [chance.sample(list(MARKS), chance.randint(2, 5)) for _ in range(count)]


def _survives(
    stack: Stack, client: TaskClient, faults: Sequence[str], chance: random.Random
) -> bool:
    """Whether a stream under these faults, and the text kept of it, are what the engine meant."""
    tokens = chance.randint(1, TOKENS_MOST)
    task_id = client.accept(prompt=_prompt(*faults), max_tokens=tokens)
    events = client.collect(task_id)
    assert_grammar(events)
    with Wire(stack).follow(task_id) as wire:
        frames = list(wire.frames())
    assert list(map(event_id, frames)) == [event.id for event in events]
    assert not any(b"execute" in frame or BOM in frame or b"\r" in frame for frame in frames)
    meant = _text(tokens, odd="split-utf8" in faults)
    return [text_of(events), client.task(task_id)["text"]] == [meant, meant]


def _text(tokens: int, *, odd: bool) -> str:
    words = cycle(ODD_WORDS) if odd else (f" w{index}" for index in range(tokens))
    return "".join(islice(words, tokens))


def _prompt(*faults: str) -> str:
    """A prompt that is told of by no event, so that the first event is the first token."""
    return " ".join(f"fault={fault}" for fault in ("no-progress", *faults))


def _is_reached(engine: Server, fault: str) -> bool:
    """Whether the engine's own bytes show a fault."""
    return MARKS[fault](chunks_of(engine, _prompt(fault), len(ODD_WORDS)))


def _in_slices(size: int) -> Callable[[Chunks], bool]:
    return lambda chunks: max(map(len, chunks)) == size


def _half_characters(chunks: Chunks) -> bool:
    text = b"".join(chunks)
    raw = ("\u2028".encode(), "\x85".encode(), "日".encode())
    return any(chunk[-1] >= 0xC0 for chunk in chunks) and all(piece in text for piece in raw)


def _mixed_ends(chunks: Chunks) -> bool:
    text = b"".join(chunks)
    return all(ends in text for ends in (b"}\n\n", b"}\r\n\r\n", b"}\r\r", b"}\n\r\n"))


def _with_bom(chunks: Chunks) -> bool:
    return b"".join(chunks).startswith(BOM)


def _with_foreign_names(chunks: Chunks) -> bool:
    text = b"".join(chunks)
    return b"event: execute" in text and b"\nid: 3\n" in text and b"\nretry: " in text


MARKS: dict[str, Callable[[Chunks], bool]] = {
    "slice-1": _in_slices(1),
    "slice-3": _in_slices(3),
    "slice-7": _in_slices(7),
    "split-utf8": _half_characters,
    "mixed-line-ends": _mixed_ends,
    "bom": _with_bom,
    "foreign-events": _with_foreign_names,
}
"""Each fault of framing, and how it shows in the engine's bytes."""
