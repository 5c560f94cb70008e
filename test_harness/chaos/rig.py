"""What scenarios run on: daemons over stand-in engines, started with faults if need be."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from test_harness.chaos.standing import note
from test_harness.ports import free_port
from test_harness.stack import Daemon, Stack, child_environment, running_stack, wait_for
from test_harness.supervised import fake_command

POOL = "chat"
MODEL = "tiny"


def fake_pool(root: Path, *options: str, **keys: Any) -> dict[str, Any]:
    """The entry of a pool of one stand-in engine that was told `options`."""
    model = root / "model.gguf"
    model.write_bytes(b"any file will do")
    return {
        "id": POOL,
        "engine": "llamacpp",
        "model": {"id": MODEL, "ref": f"file:{model}"},
        "ctx": 100_000,
        "slots": 1,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "command", "command": fake_command(*options)},
        "restart": {"base_ms": 50},
    } | keys


def absent_pool() -> dict[str, Any]:
    """The entry of a pool that nobody serves: its tasks wait."""
    return {
        "id": POOL,
        "engine": "llamacpp",
        "model": {"id": MODEL, "ref": "file:/none"},
        "ctx": 100_000,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "external", "url": "http://127.0.0.1:9"},
    }


@contextlib.contextmanager
def served(root: Path, pool: dict[str, Any], **sections: Any) -> Iterator[Stack]:
    """Both daemons around the block; the pool serves and the port stays over restarts."""
    with running_stack(root, [pool], **_settings(sections)) as stack:
        stack.wait_serving(POOL)
        yield stack
        note(stack)


@contextlib.contextmanager
def unserved(root: Path, **sections: Any) -> Iterator[Stack]:
    """orchestratord alone around the block, so that every task waits."""
    stack = Stack(root, [absent_pool()], **_settings(sections))
    try:
        stack.start("orchestratord").wait_ready()
        yield stack
        note(stack)
    finally:
        stack.stop()


def _settings(sections: dict[str, Any]) -> dict[str, Any]:
    defaults = {
        "orchestratord": {"port": free_port()},
        "timeouts": {"drain_ms": 0},
        "queue": {"capacity": 100_000},
        "limits": {"connections": 4_096},
    }
    return defaults | sections


class FailingDaemon(Daemon):
    """orchestratord in its test mode, with failpoints."""

    def __init__(self, root: Path, failpoints: str) -> None:
        self.name = "orchestratord"
        self.log = root / f"{self.name}.log"
        self._run_file = root / "state" / "run" / f"{self.name}.json"
        self.started_at = time.monotonic()
        argv = ["-m", self.name, "--test-mode", "--config", str(root / "config.yaml")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment() | {"LLORCH_FAILPOINTS": failpoints},
                start_new_session=True,
            )


def start_failing(stack: Stack, failpoints: str) -> Daemon:
    """Start orchestratord with failpoints; it may die before it serves."""
    daemon = stack.daemons["orchestratord"] = FailingDaemon(stack.root, failpoints)
    return daemon


def wait_dead(daemon: Daemon, what: str) -> int:
    """Wait until a daemon has ended by itself; its exit code."""
    wait_for(lambda: daemon.process.poll() is not None, what)
    return daemon.process.wait()
