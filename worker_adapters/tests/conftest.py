"""Generated models, and real llama.cpp processes serving them."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.pools import PoolWorkload
from contracts.service.settings import child_environment
from worker_adapters.base import LaunchSpec
from worker_adapters.llamacpp_launch import EmbeddedLauncher
from worker_adapters.tests.ports import free_port
from worker_adapters.tiny_gguf import write_model
from worker_adapters.transport import EngineTransport

KEY = "a-key-for-tests"
CTX = 512
VECTOR_CTX = 1024
"""More than llama.cpp's own physical batch, which is 512."""


@dataclass(frozen=True)
class RunningEngine:
    """A llama.cpp that serves."""

    process: subprocess.Popen[bytes]
    base_url: str
    api_key: str


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `tiny.gguf`; `endless.gguf` comes when first asked for."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "tiny.gguf")
    return folder


@pytest.fixture(scope="session")
def engine(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """The fast model with two slots of 512 tokens."""
    log = tmp_path_factory.mktemp("engine") / "log"
    with running(models / "tiny.gguf", log) as served:
        yield served


@pytest.fixture(scope="session")
def endless_engine(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    """The slow model that never stops by itself, with one slot of 512 tokens."""
    write_model(models / "endless.gguf", "endless")
    log = tmp_path_factory.mktemp("endless") / "log"
    with running(models / "endless.gguf", log, slots=1) as served:
        yield served


@pytest.fixture(scope="session")
def embedding_engine(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    """A model that embeds, with two slots of `VECTOR_CTX` tokens."""
    write_model(models / "embedding.gguf", "embedding")
    log = tmp_path_factory.mktemp("embedding") / "log"
    with running(models / "embedding.gguf", log, workload="embedding", ctx=VECTOR_CTX) as served:
        yield served


@pytest.fixture(scope="session")
def rerank_engine(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    """A model that ranks, with two slots of `VECTOR_CTX` tokens."""
    write_model(models / "rerank.gguf", "rerank")
    log = tmp_path_factory.mktemp("rerank") / "log"
    with running(models / "rerank.gguf", log, workload="rerank", ctx=VECTOR_CTX) as served:
        yield served


@pytest.fixture
async def transport(anyio_backend: str) -> AsyncIterator[EngineTransport]:
    """A client session for one test."""
    async with EngineTransport() as opened:
        yield opened


@contextmanager
def running(
    model: Path,
    log: Path,
    slots: int = 2,
    workload: PoolWorkload = "generation",
    ctx: int = CTX,
) -> Iterator[RunningEngine]:
    """An embedded engine, ready to serve; ended by SIGTERM."""
    port = free_port()
    plan = EmbeddedLauncher().plan(spec_of(model, port, slots, workload, ctx))
    with log.open("wb") as output:
        process = subprocess.Popen(
            plan.argv, env=child_environment(plan.env), stdout=output, stderr=output
        )
    base_url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(process, base_url, log)
        yield RunningEngine(process, base_url, KEY)
    finally:
        process.terminate()
        assert process.wait(5) == 0


def spec_of(
    model: Path,
    port: int,
    slots: int = 2,
    workload: PoolWorkload = "generation",
    ctx: int = CTX,
) -> LaunchSpec:
    """A launch on loopback."""
    return LaunchSpec(
        model_path=model,
        model_alias="tiny",
        host="127.0.0.1",
        port=port,
        ctx=ctx,
        slots=slots,
        device_uuids=(),
        engine_args=(),
        api_key=KEY,
        workload=workload,
    )


def _wait_ready(process: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{base_url}/health", timeout=5):
                return
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"no engine: {log.read_text()}")
