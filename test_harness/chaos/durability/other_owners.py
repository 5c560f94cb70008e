"""Somebody else holds the lock of the state, the port, or the database."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from contracts.service.daemon import EXIT_BUSY
from test_harness.bench.loop_lag import LoopLag
from test_harness.chaos.durability.following import Following
from test_harness.chaos.durability.history import History, Told, kept, wait_ended
from test_harness.chaos.durability.posters import posting
from test_harness.chaos.figures import Figures, at_least, at_most, exactly, timely
from test_harness.chaos.rig import fake_pool, served, unserved
from test_harness.chaos.streams.watch import Watch
from test_harness.ports import free_port
from test_harness.stack import Stack
from test_harness.task_client import TaskClient

REFUSED_WITHIN_S = 2.0
ANSWERED_WITHIN_S = 5.0
HEALED_WITHIN_S = 5.0
LAG_MS = 250.0
HEALTHZ_P99_MS = 50.0
POSTERS = 4
TOKEN_MS = 50
TOKENS_AFTER_S = 3.0
"""The stream that runs goes on for so long after the lock is gone."""
ENDED_WITHIN_S = 60.0
BUSY = 503


def one_owner(root: Path, seed: int, full: bool) -> Figures:
    """A second daemon on the state or the port of another ends at once, and hurts nobody."""
    first, refused = root / "first", []
    first.mkdir()
    with unserved(first) as stack, TaskClient(stack) as client:
        client.accept()
        port = urlsplit(stack.url).port
        for number in range(10 if full else 1):
            same_state = {"state_dir": str(stack.state_dir), "orchestratord": {"port": free_port()}}
            same_port = {"orchestratord": {"port": port}}
            refused.append(_refused(root / f"state-{number}", "orchestratord.lock", same_state))
            refused.append(_refused(root / f"port-{number}", f":{port}", same_port))
        assert client.get("/healthz").status_code == 200
        assert client.task(client.accept())["queue_position"] == 1
        assert stack.daemons["orchestratord"].process.poll() is None
    return {
        "second daemons": len(refused),
        "refused after, s": timely(max(refused), REFUSED_WITHIN_S, full),
    }


def locked_database(root: Path, seed: int, full: bool) -> Figures:
    """Another process holds the database: posts are answered in time, streams go on, it heals."""
    held_s = 10.0 if full else 3.0
    tokens = round((held_s + TOKENS_AFTER_S) * 1000 / TOKEN_MS)
    pool = fake_pool(root, "--token-ms", str(TOKEN_MS), slots=2)
    with served(root, pool) as stack, TaskClient(stack) as client:
        reader = Following(stack, client.accept(max_tokens=tokens))
        reader.wait_token()
        with Watch(stack) as watch:
            lag = LoopLag(stack)
            with posting(stack, str(seed), POSTERS, insists=False) as history:
                with _locked(stack.state_dir / "orchestratord.sqlite"):
                    began = time.monotonic()
                    time.sleep(held_s)
                    events = reader.between(began, time.monotonic())
                healed_s = _seconds_until_accepted(history)
            lag_ms = lag.percentile_ms(1.0)
        assert reader.whole_and_well(ENDED_WITHIN_S)[-1].data["tokens_out"] == tokens
        accepted = history.told(Told.OK)
        wait_ended(stack, (operation.task_id for operation in accepted), ENDED_WITHIN_S)
        found = kept(stack, history.operations)
    refused = history.told(Told.FAILED)
    slowest = max(operation.took_s for operation in history.operations)
    assert {operation.status for operation in refused} <= {BUSY}
    return {
        "posts held up by the lock": _held_up(history, held_s),
        "of these answered 503": at_least(len(refused), 1),
        "accepted": len(accepted),
        "of these lost": exactly(len(found.lost), 0),
        "ended otherwise than well": exactly(len(found.views) - found.states()["succeeded"], 0),
        "answered after at most, s": timely(slowest, ANSWERED_WITHIN_S, full),
        "accepted again after, s": timely(healed_s, HEALED_WITHIN_S, full),
        "events while it was locked": at_least(events, held_s * 1000 / TOKEN_MS / 4),
        "healthz p99, ms": timely(watch.healthz_p99_ms, HEALTHZ_P99_MS, full),
        "loop lag at most, ms": at_most(lag_ms, LAG_MS if full else 4 * LAG_MS),
    }


@contextlib.contextmanager
def _locked(database: Path) -> Iterator[None]:
    with closing(sqlite3.connect(database, isolation_level=None, timeout=10.0)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def _seconds_until_accepted(history: History) -> float:
    """Until a post is accepted that was sent now."""
    began, so_far = time.monotonic(), len(history.operations)
    while not any(
        operation.told is Told.OK and operation.took_s < time.monotonic() - began
        for operation in history.operations[so_far:]
    ):
        assert time.monotonic() - began < ENDED_WITHIN_S, "nothing was accepted again"
        time.sleep(0.02)
    return time.monotonic() - began


def _held_up(history: History, held_s: float) -> int:
    """Posts that the lock refused, or made wait for a good part of its time."""
    return sum(
        operation.told is Told.FAILED or operation.took_s > held_s / 4
        for operation in history.operations
    )


def _refused(root: Path, named: str, settings: dict[str, Any]) -> float:
    """Start a daemon that must end with 75 and name what is taken; after how many seconds."""
    root.mkdir()
    stack = Stack(root, [], **settings)
    daemon = stack.start("orchestratord")
    code = daemon.process.wait(ENDED_WITHIN_S)
    took_s = time.monotonic() - daemon.started_at
    said = daemon.logged().splitlines()[-1]
    assert code == EXIT_BUSY, said
    assert named in said, said
    return took_s
