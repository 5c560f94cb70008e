"""Models that are too large or damaged, before a real daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.pools import LastError, Snapshot
from test_harness.gguf_files import file_of, numbers, tensor
from test_harness.stack import Stack, wait_for
from test_harness.supervised import fake_command

pytestmark = pytest.mark.slow
GIB = 2**30
SAID = "started"


class Machine:
    """pool_managerd on a machine with one card of 12 GB, of which some is in use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stack: Stack | None = None

    def card(self, used: int) -> None:
        card = {"index": 1, "uuid": "GPU-small", "name": "NVIDIA GeForce RTX 3060"}
        new = self.root / "cards.new"
        sizes = {"total_bytes": 12 * GIB, "used_bytes": used}
        new.write_text(json.dumps({"devices": [card | sizes]}))
        new.replace(self.root / "cards.json")

    def start(self, model: Path, used: int, provisioning: dict[str, Any], **changes: Any) -> None:
        self.card(used)
        pool = {
            "id": "p",
            "engine": "llamacpp",
            "model": {"id": "qwen7b", "ref": f"file:{model}"},
            "replicas": [{"devices": [1]}],
            "provisioning": provisioning,
            "restart": {"base_ms": 20},
        }
        gpus = {"source": "file", "file": str(self.root / "cards.json"), "sample_ms": 50}
        self.stack = Stack(self.root, [pool | changes], gpus=gpus)
        self.stack.start("pool_managerd").wait_ready()

    def resume(self) -> None:
        """What an operator does once there is room."""
        assert self.stack is not None
        wait_for(lambda: self.snapshot().devices[0].used_bytes == 0, "the free card is seen")
        with self.stack.client("pool_managerd") as client:
            pool_id = self.snapshot().pools[0].pool_id
            assert client.post(f"/v1/pools/{pool_id}/resume").status_code == 202

    def snapshot(self) -> Snapshot:
        assert self.stack is not None
        with self.stack.client("pool_managerd") as client:
            return Snapshot.model_validate_json(client.get("/v1/snapshot").content)

    def last_error(self) -> LastError:
        wait_for(lambda: self.snapshot().pools[0].last_error, "the launch is refused")
        error = self.snapshot().pools[0].last_error
        assert error is not None
        return error

    def engine(self) -> str:
        """A program that leaves a file, and ends."""
        program = self.root / "llama-server"
        program.write_text(f"#!/bin/sh\ntouch {self.root / SAID}\nexit 1\n")
        program.chmod(0o755)
        return str(program)

    def started(self) -> bool:
        return (self.root / SAID).exists()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    if machine.stack is not None:
        machine.stack.stop()


def test_a_model_too_large_is_refused_with_the_numbers_and_nothing_is_started(
    machine: Machine, tmp_path: Path
) -> None:
    """LO-POOL-092."""
    geometry = numbers(
        block_count=1,
        embedding_length=4096,
        attention__head_count=32,
        attention__key_length=1024,
        attention__value_length=1024,
    )
    size = 4 * GIB
    model = file_of(tmp_path, *geometry, tensors=(tensor("blk.0.x", size // 4),), data=size)
    program = {"mode": "binary", "path": machine.engine()}
    machine.start(model, 5 * GIB, program, ctx=8192, slots=4)
    error = machine.last_error()
    assert f"{error.reason}: {error.message}" == (
        "INSUFFICIENT_VRAM: qwen7b needs 8.3 GiB on GPU 1 (NVIDIA GeForce RTX 3060): 4.0 weights"
        " + 4.0 KV cache (ctx 8192 x 4 slots) + 0.3 compute; 6.5 GiB are free after the reserve of"
        " 0.5: lower `ctx` to 4352 or `slots`, or choose a smaller quantisation"
    )
    replica = machine.snapshot().pools[0].replicas[0]
    assert (replica.pid, machine.started()) == (None, False)
    machine.card(0)
    machine.resume()
    wait_for(machine.started, "it is started once there is room and somebody says so")


def test_a_command_is_refused_by_the_size_of_its_file(machine: Machine, tmp_path: Path) -> None:
    """LO-POOL-092."""
    model = tmp_path / "any"
    model.touch()
    os.truncate(model, GIB)
    machine.start(model, 11 * GIB, {"mode": "command", "command": fake_command()})
    error = machine.last_error()
    assert error.reason == "INSUFFICIENT_VRAM"
    assert "1.0 GiB on GPU 1 (NVIDIA GeForce RTX 3060): 1.0 weights; 0.5 GiB are" in error.message
    machine.card(0)
    machine.resume()
    wait_for(lambda: machine.snapshot().pools[0].ready, "it serves once there is room")


def test_a_damaged_model_is_refused_and_nothing_is_started(
    machine: Machine, tmp_path: Path
) -> None:
    """LO-POOL-096."""
    model = tmp_path / "damaged.gguf"
    model.write_bytes(b"GGUF\3\0\0\0")
    machine.start(model, 0, {"mode": "binary", "path": machine.engine()})
    error = machine.last_error()
    assert error.reason == "MODEL_INVALID"
    assert "damaged.gguf: at offset 8: the file is cut off" in error.message
    assert not machine.started()
