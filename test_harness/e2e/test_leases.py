"""Slots are given back however a task ends: what is lost blocks a card until its TTL."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from test_harness.stack import POLL_S, Stack, running_stack
from test_harness.supervised import fake_command
from test_harness.task_client import TaskClient, assert_grammar

pytestmark = pytest.mark.slow

CANCELS = 120
CANCEL_WITHIN_S = 0.01
"""Around dispatch: a lease is asked for, granted, committed and used in this time."""
GIVEN_BACK_S = 5.0


def fake_pool(folder: Path, *options: str, **keys: Any) -> dict[str, Any]:
    """A pool on the stand-in engine; it serves any file."""
    model = folder / "model.gguf"
    model.write_bytes(b"any file will do")
    return {
        "id": "chat",
        "engine": "llamacpp",
        "model": {"id": "tiny", "ref": f"file:{model}"},
        "ctx": 100_000,
        "slots": 4,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "command", "command": fake_command(*options)},
    } | keys


def leased_slots(stack: Stack) -> int:
    """Slots under a lease, as pool_managerd counts them."""
    with stack.client("pool_managerd") as client:
        pools = client.get("/v1/snapshot").json()["pools"]
    return sum(replica["slots_used"] for pool in pools for replica in pool["replicas"])


def test_a_storm_of_cancels_loses_no_slot(tmp_path: Path) -> None:
    """A cancel that meets the lease on its way must not lose it, or the card idles 30 s."""
    rng = random.Random(20)
    pauses = [rng.uniform(0, CANCEL_WITHIN_S) for _ in range(CANCELS)]
    with running_stack(tmp_path, [fake_pool(tmp_path)]) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:

            def cancel_after(pause: float) -> None:
                task_id = client.accept(max_tokens=5000)
                time.sleep(pause)
                assert client.cancel(task_id) == 204
                events = client.collect(task_id)
                assert_grammar(events)
                assert events[-1].data["code"] == "CANCELED"

            with ThreadPoolExecutor(8) as threads:
                list(threads.map(cancel_after, pauses))
        # A slot goes back just after its task's last event, and well within a TTL.
        deadline = time.monotonic() + GIVEN_BACK_S
        while leased_slots(stack) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        assert leased_slots(stack) == 0
