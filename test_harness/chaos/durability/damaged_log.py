"""State of a daemon that was killed, its last writes in the log alone, and the log then damaged."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from contracts.service.daemon import EXIT_STATE_DAMAGED
from test_harness.chaos.figures import Figures, exactly, timely
from test_harness.chaos.posters import post_all, task_body, task_id_of
from test_harness.chaos.rig import unserved, wait_dead
from test_harness.stack import Stack

REFUSED_S = 2.0
DATABASE = "orchestratord.sqlite"
LOG = f"{DATABASE}-wal"
PAGE_BYTES = 4_096
TASKS = 40
AT_ONCE = 8


class _Start(NamedTuple):
    """What a start on some state came to."""

    refused: bool
    """With the exit code for it, and one line that names the file."""
    changed: bool
    took_s: float


def damaged_log(root: Path, seed: int, full: bool) -> Figures:
    """Less of the log than its index counts, or a log without what it belongs to."""
    rounds, chance = 20 if full else 1, random.Random(seed)
    state = _killed_with_tasks(root / "original", chance)
    starts = [
        _start_on(state, root / f"{number}{damage.__name__}", damage, chance)
        for number in range(rounds)
        for damage in (_cut, _empty_database, _no_database)
    ]
    shutil.rmtree(root / "original" / "state")
    return {
        "damages": len(starts),
        "refused": exactly(sum(start.refused for start in starts), len(starts)),
        "files changed": exactly(sum(start.changed for start in starts), 0),
        "refused after at most, s": timely(max(start.took_s for start in starts), REFUSED_S, full),
    }


def _cut(state: Path, chance: random.Random) -> None:
    path = state / LOG
    with path.open("r+b") as file:
        file.truncate(chance.randrange(path.stat().st_size - PAGE_BYTES))


def _empty_database(state: Path, _: random.Random) -> None:
    (state / DATABASE).write_bytes(b"")


def _no_database(state: Path, _: random.Random) -> None:
    (state / DATABASE).unlink()


def _killed_with_tasks(root: Path, chance: random.Random) -> Path:
    """The state directory of a daemon that was killed with tasks in line."""
    root.mkdir()
    with unserved(root) as stack:
        bodies = [task_body(task_id_of(chance), tokens=2) for _ in range(TASKS)]
        assert all(answer.status == 202 for answer in post_all(stack, bodies, AT_ONCE))
        stack.daemons["orchestratord"].stop(signal.SIGKILL)
    assert (stack.state_dir / LOG).stat().st_size > PAGE_BYTES
    return stack.state_dir


def _start_on(
    original: Path, root: Path, damage: Callable[[Path, random.Random], None], chance: random.Random
) -> _Start:
    """Start a daemon on a damaged copy of some state; the copy is removed after."""
    root.mkdir()
    stack = Stack(root, [])
    shutil.copytree(original, stack.state_dir)
    damage(stack.state_dir, chance)
    before = _digests(stack.state_dir)
    daemon = stack.start("orchestratord")
    code = wait_dead(daemon, f"orchestratord refuses {root.name}")
    took_s = time.monotonic() - daemon.started_at
    said = daemon.logged().splitlines()[-1]
    refused = code == EXIT_STATE_DAMAGED and str(stack.state_dir / DATABASE) in said
    changed = _digests(stack.state_dir) != before
    shutil.rmtree(stack.state_dir)
    return _Start(refused, changed, took_s)


def _digests(state: Path) -> dict[str, str]:
    """Of the database and what lies beside it, but for the index of its log, which is a cache."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in state.glob(f"{DATABASE}*")
        if not path.name.endswith("-shm")
    }
