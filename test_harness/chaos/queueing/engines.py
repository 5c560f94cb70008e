"""Stand-in engines in pools of any shape, the daemons on them, and what these hold."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from test_harness.chaos.rig import POOL
from test_harness.chaos.standing import note
from test_harness.chaos.waits import until
from test_harness.stack import Stack
from test_harness.supervised import fake_command
from test_harness.task_client import TaskClient

GIVEN_BACK_S = 10.0
PATIENT = {"drain_ms": 0, "idle_token_ms": 600_000}
QUICK = {"base_ms": 50, "cap_ms": 100}
ATTEMPTS = "attempts.jsonl"


class Served(NamedTuple):
    """What a scenario works on."""

    stack: Stack
    client: TaskClient


def pool_of(root: Path, *options: str, **changes: Any) -> dict[str, Any]:
    """A pool of one stand-in engine with one slot, whose attempts are noted under `root`."""
    model = root / "model.gguf"
    model.write_bytes(b"any file will do")
    noted = ("--attempts-log", str(root / ATTEMPTS))
    return {
        "id": POOL,
        "engine": "llamacpp",
        "model": {"id": "tiny", "ref": f"file:{model}"},
        "ctx": 1_000_000,
        "slots": 1,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "command", "command": fake_command(*options, *noted)},
        "restart": QUICK,
    } | changes


@contextlib.contextmanager
def alone(root: Path, pool: dict[str, Any], **sections: Any) -> Iterator[Served]:
    """orchestratord by itself, its pool manager yet to come."""
    stack = Stack(root, [pool], **{"timeouts": PATIENT} | sections)
    try:
        stack.start("orchestratord").wait_ready()
        with TaskClient(stack) as client:
            yield Served(stack, client)
        note(stack)
    finally:
        stack.stop()


@contextlib.contextmanager
def engines(root: Path, pool: dict[str, Any], ready: int = 1, **sections: Any) -> Iterator[Served]:
    """Both daemons on a pool, `ready` of its replicas serving."""
    with alone(root, pool, **sections) as it:
        it.stack.start("pool_managerd")
        it.stack.wait_serving(POOL, ready)
        yield it


def replicas(stack: Stack) -> list[dict[str, Any]]:
    """The replicas as pool_managerd has them."""
    with stack.client("pool_managerd") as client:
        pools = client.get("/v1/snapshot").json()["pools"]
    return [replica for pool in pools for replica in pool["replicas"]]


def wait_given_back(stack: Stack) -> None:
    """Wait until pool_managerd counts no slot under a lease."""

    def given_back() -> bool:
        return not any(replica["slots_used"] for replica in replicas(stack))

    until(given_back, GIVEN_BACK_S, "every slot is given back")


def hold_the_slot(it: Served, **fields: Any) -> str:
    """Start a task that falls silent and never ends by itself; returns its id once it runs."""
    task_id = it.client.accept(prompt="fault=hang-after-1", max_tokens=100, **fields)
    events = it.client.follow(task_id)
    next(event for event in events if event.name == "token")
    return task_id


def rows(stack: Stack, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
    """What the database says, read beside the daemon that writes it."""
    path = stack.state_dir / "orchestratord.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(statement, values).fetchall()
