"""Models and pools the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from test_harness.stack import running_stack
from test_harness.task_client import TaskClient
from worker_adapters.tiny_gguf import write_model

PoolFactory = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny.gguf` (fast, ends by itself) and `endless.gguf` (slow, never ends)."""
    folder = tmp_path_factory.mktemp("models")
    for preset in ("tiny", "endless"):
        write_model(folder / f"{preset}.gguf", preset)
    return folder


@pytest.fixture(scope="session")
def embedded_pool(models: Path) -> PoolFactory:
    """Makes the entry of a pool on real llama.cpp; keywords override its keys."""

    def make(preset: str = "tiny", replicas: int = 1, **keys: Any) -> dict[str, Any]:
        return {
            "id": "chat",
            "engine": "llamacpp",
            "model": {"id": "tiny", "ref": f"file:{models / preset}.gguf"},
            "ctx": 4096,
            "slots": 1,
            "replicas": [{"devices": []}] * replicas,
            "provisioning": {"mode": "embedded"},
            "restart": {"base_ms": 100},
        } | keys

    return make


@pytest.fixture(scope="session")
def stack_without_pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskClient]:
    """A client of daemons that serve nothing: enough for what is refused at the door."""
    with running_stack(tmp_path_factory.mktemp("bare"), []) as stack, TaskClient(stack) as client:
        yield client
