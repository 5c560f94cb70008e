"""State that was flipped, cut, emptied, or written by a newer version."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import uvloop

from contracts.service.daemon import EXIT_STATE_DAMAGED
from test_harness.bench.posting import CLIENTS, post_tasks, waiting_task
from test_harness.chaos.figures import Figures, at_least, exactly, timely
from test_harness.chaos.rig import unserved
from test_harness.stack import Stack, wait_for

TASKS = 200
PAGE_BYTES = 4096
FLIPPED_BYTES = 64
NEWER_SCHEMA = 99
REFUSED_WITHIN_S = 2.0
FLIPPED_SHORT = 3
"""Pages in whose middle bytes are flipped, of all there are in a full run."""

Damage = Callable[[Path], None]


class _Start(NamedTuple):
    """What a start on some state came to."""

    refused: bool
    took_s: float
    rows_changed: int = 0
    """Of what was taken."""


def damaged_state(root: Path, seed: int, full: bool) -> Figures:
    """Refused with 70 in one line that names the file, which stays as it was."""
    with unserved(root) as stack:
        uvloop.run(post_tasks([waiting_task(stack)] * CLIENTS, TASKS))
        assert stack.daemons["orchestratord"].stop() == 0
        path = stack.state_dir / "orchestratord.sqlite"
        whole = path.read_bytes()
        kinds = {"certain": list(_certain(len(whole))), "in a page": _flips(whole, seed, full)}
        starts = {
            kind: [_start_on(stack, path, whole, damage) for damage in damages]
            for kind, damages in kinds.items()
        }
        path.write_bytes(whole)
        stack.start("orchestratord").wait_ready()
        with stack.client() as client:
            client.get("/readyz").raise_for_status()
            kept = len(client.get("/v1/tasks", params={"limit": 500}).json()["items"])
    every = [*starts["certain"], *starts["in a page"]]
    refused = [start.took_s for start in every if start.refused]
    return {
        "damages": len(every),
        "refused": len(refused),
        "taken in error": exactly(sum(not start.refused for start in starts["certain"]), 0),
        "flips in pages that were found": at_least(
            sum(start.refused for start in starts["in a page"]), 1
        ),
        "rows changed in what was taken": exactly(sum(start.rows_changed for start in every), 0),
        "refused after, s": timely(max(refused), REFUSED_WITHIN_S, full),
        "tasks once it is whole again": exactly(kept, TASKS),
    }


def _certain(size: int) -> Iterator[Damage]:
    """Damages that must be found wherever the rows happen to lie."""
    yield lambda path: _cut(path, size // 2)
    yield lambda path: _cut(path, size - 1)
    yield lambda path: _cut(path, 0)
    yield lambda path: _cut(path, 0, size)
    yield _newer


def _flips(whole: bytes, seed: int, full: bool) -> list[Damage]:
    """Flipped bytes in the middle of pages; where a page has nothing there, nothing is lost."""
    pages = range(len(whole) // PAGE_BYTES)
    chosen = pages if full else random.Random(seed).sample(pages, FLIPPED_SHORT)
    return [_flip_at(page * PAGE_BYTES + PAGE_BYTES // 2) for page in chosen]


def _flip_at(offset: int) -> Damage:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        for index in range(offset, offset + FLIPPED_BYTES):
            content[index] ^= 0xFF
        path.write_bytes(content)

    return flip


def _cut(path: Path, length: int, zeros: int = 0) -> None:
    with path.open("r+b") as file:
        file.truncate(length)
        file.truncate(length + zeros)


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {NEWER_SCHEMA}")


def _start_on(stack: Stack, path: Path, whole: bytes, damage: Damage) -> _Start:
    """Start on damaged state; one that is refused is as it was before."""
    path.write_bytes(whole)
    rows = _rows(path)
    damage(path)
    before = path.read_bytes()
    daemon = stack.start("orchestratord")
    code = wait_for(lambda: _ended_or_ready(stack), "orchestratord is refused, or ready")
    took_s = time.monotonic() - daemon.started_at
    if code == "ready":
        daemon.stop()
        changed = sum(a != b for a, b in zip_longest(rows, _rows(path)))
        return _Start(refused=False, took_s=took_s, rows_changed=changed)
    said = daemon.logged().splitlines()[-1]
    assert daemon.process.wait() == EXIT_STATE_DAMAGED, said
    assert str(path) in said, said
    assert path.read_bytes() == before, "it was left as it was"
    return _Start(refused=True, took_s=took_s)


def _ended_or_ready(stack: Stack) -> str:
    daemon = stack.daemons["orchestratord"]
    if daemon.process.poll() is not None:
        return "ended"
    return "ready" if (stack.state_dir / "run" / "orchestratord.json").exists() else ""


def _rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM tasks ORDER BY sequence").fetchall()
