"""A stand-in engine as a process of its own, from its start to its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from test_harness.ports import free_port

API_KEY = "a-key-of-this-test"
START_S = 20.0
POLL_S = 0.02


@dataclass(frozen=True)
class FakeProcess:
    """One that was started."""

    process: subprocess.Popen[bytes]
    base_url: str
    attempts_log: Path


@contextmanager
def fake_process(
    dialect: str,
    attempts_log: Path,
    *options: str,
    key: str | None = API_KEY,
    listening: bool = True,
) -> Iterator[FakeProcess]:
    """`dialect`'s stand-in on a free port, as soon as it listens; ended after.

    Args:
        listening: False does not wait for that.
    """
    port = free_port()
    argv = [sys.executable, "-m", f"test_harness.fake_engines.{dialect}", "--port", str(port)]
    argv += ["--token-ms", "0", "--attempts-log", str(attempts_log), *options]
    if key is not None:
        argv += ["--api-key", key]
    process = subprocess.Popen(argv, start_new_session=True)
    try:
        if listening:
            _until_listening(process, port)
        yield FakeProcess(process, f"http://127.0.0.1:{port}", attempts_log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    """A port tells nobody when it opens, so it is asked again and again."""
    deadline = time.monotonic() + START_S
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "the stand-in does not listen"
        time.sleep(POLL_S)
