"""A pool whose every slot is taken for longer than any question takes, so that tasks wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from test_harness.bench.posting import post_tasks, waiting_task
from test_harness.bench.processes import Server, paced_engine
from test_harness.bench.streams import client, read_tokens, task_endpoint
from test_harness.stack import Stack, running_stack

KEY = "a-key-for-a-benchmark"
TOKEN_MS = 1000.0


def external_pool(root: Path, engine: Server, slots: int = 1) -> dict[str, object]:
    """The entry of pool `paced`, served by an engine that asks for `KEY`."""
    key_file = root / "engine.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    return {
        "id": "paced",
        "engine": "llamacpp",
        "model": {"id": "tiny", "ref": "file:/none"},
        "ctx": 4096,
        "slots": slots,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "external", "url": engine.url, "api_key_file": str(key_file)},
    }


@contextlib.contextmanager
def taken_pool(root: Path, *, capacity: int, slots: int = 1, **sections: Any) -> Iterator[Stack]:
    """Both daemons on slots that tasks of two thousand seconds hold.

    A short task has run before them, so that starts are predicted.
    """
    with paced_engine(root, slots=slots, token_ms=TOKEN_MS, api_key=KEY) as engine:
        settings: dict[str, Any] = {"queue": {"capacity": capacity}, "timeouts": {"drain_ms": 0}}
        pool = external_pool(root, engine, slots)
        with running_stack(root, [pool], **settings | sections) as stack:
            stack.wait_serving("paced")
            uvloop.run(_learn(stack))
            uvloop.run(post_tasks([waiting_task(stack)], slots))
            yield stack


async def _learn(stack: Stack) -> None:
    async with client() as session:
        task = task_endpoint(stack.url, stack.token, max_tokens=2)
        await read_tokens(session, task, lambda _: None)
