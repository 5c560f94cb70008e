"""What a benchmark starts besides the daemons, and what it reads of a process."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from test_harness.ports import free_port
from test_harness.stack import DaemonName, Stack, child_environment
from worker_adapters.base import LaunchSpec
from worker_adapters.llamacpp_launch import EmbeddedLauncher

MB = 1_000_000
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 10.0


class BenchFailed(Exception):
    """It could not be measured; one line says why."""


@dataclass(frozen=True)
class Server:
    """A server on loopback that answers."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def paced_engine(root: Path, *, slots: int, token_ms: float, api_key: str) -> Iterator[Server]:
    """The stand-in engine, one token a stream every `token_ms`."""
    argv = ["-m", "test_harness.fake_engines.llamacpp", "--port", "{port}"]
    argv += ["--slots", str(slots), "--token-ms", str(token_ms)]
    with _served(root / "engine.log", argv, {"LLAMA_API_KEY": api_key}) as server:
        yield server


@contextlib.contextmanager
def line_relay(root: Path, upstream: Server) -> Iterator[Server]:
    """The bare relay in front of `upstream`."""
    argv = ["-m", "test_harness.bench.line_relay", upstream.url, "{port}"]
    with _served(root / "relay.log", argv, {}) as server:
        yield server


@contextlib.contextmanager
def embedded_engine(root: Path, model: Path, api_key: str) -> Iterator[Server]:
    """Real llama.cpp with one slot, launched as pool_managerd launches it."""
    port = free_port()
    plan = EmbeddedLauncher().plan(
        LaunchSpec(
            model_path=model,
            model_alias="tiny",
            host="127.0.0.1",
            port=port,
            ctx=4096,
            slots=1,
            device_uuids=(),
            engine_args=(),
            api_key=api_key,
        )
    )
    with _running(root / "engine.log", plan.argv, plan.env, port) as server:
        yield server


def wait_answering(port: int, path: str, process: psutil.Process | subprocess.Popen[bytes]) -> None:
    """Ask until something other than 503 is answered.

    Raises:
        BenchFailed: the process ended, or it takes too long.
    """
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if _ended(process):
            raise BenchFailed(f"process {process.pid} ended before it served on port {port}")
        if _status(port, path) not in {None, 503}:
            return
        time.sleep(0.005)
    raise BenchFailed(f"nothing served {path} on port {port} within {START_DEADLINE_S:g} s")


def start_until_ready(stack: Stack, name: DaemonName) -> float:
    """Start a daemon and wait until it says that it is ready; seconds from its start."""
    daemon = stack.start(name)
    port = urlsplit(daemon.url).port
    assert port is not None
    wait_answering(port, "/readyz", daemon.process)
    return time.monotonic() - daemon.started_at


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, user and system, to the microsecond.

    The clock of another process, by the number Linux gives it: clock_getcpuclockid(3).
    /proc tells the same in steps of 10 ms, too coarse for a daemon that idles.
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident_mb(pid: int) -> float:
    """Resident memory of a process, 10^6 bytes."""
    return float(psutil.Process(pid).memory_info().rss) / MB


def _status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return None


def _ended(process: psutil.Process | subprocess.Popen[bytes]) -> bool:
    if isinstance(process, psutil.Process):
        return not process.is_running()
    return process.poll() is not None


@contextlib.contextmanager
def _served(log: Path, argv: Sequence[str], env: Mapping[str, str]) -> Iterator[Server]:
    port = free_port()
    filled = [sys.executable, *(part.replace("{port}", str(port)) for part in argv)]
    with _running(log, filled, env, port) as server:
        yield server


@contextlib.contextmanager
def _running(log: Path, argv: Sequence[str], env: Mapping[str, str], port: int) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=child_environment() | dict(env),
        )
    try:
        wait_answering(port, "/health", process)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
