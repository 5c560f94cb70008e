"""Models against figures of cards: fresh, old and missing ones."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from contracts.config import Pool
from contracts.pools import DeviceSample, DeviceView, FailureReason
from pool_managerd.domain.fit import GIB, Estimate
from pool_managerd.failure import LaunchRefused
from pool_managerd.fitting import check_fit, needed_memory
from pool_managerd.replica import ReplicaEntry
from pool_managerd.room import Room
from pool_managerd.telemetry.sampler import Sampler, Take
from test_harness.gguf_files import ARRAY, U32, file_of, numbers, pair, tensor

pytestmark = pytest.mark.anyio
NEEDED = Estimate(weights=4 * GIB)
GEOMETRY = {"block_count": 2, "embedding_length": 4096, "attention__head_count": 32}


def card(used: int | None) -> DeviceView:
    known = {"index": 0, "uuid": "GPU-a", "name": "Card", "total_bytes": 8 * GIB}
    return DeviceView.model_validate(known | {"used_bytes": used})


def pool(path: Path, mode: str = "binary", **changes: Any) -> Pool:
    program = {"command": ["engine"]} if mode == "command" else {"path": "llama-server"}
    fields = {
        "id": "p",
        "engine": "llamacpp",
        "model": {"id": "m", "ref": f"file:{path}"},
        "ctx": 1024,
        "replicas": [{"devices": [0]}],
        "provisioning": {"mode": mode} | program,
    }
    return Pool.model_validate(fields | changes, strict=False)


class Cards:
    """A source that says what a test tells it to, and its clock."""

    def __init__(self) -> None:
        self.now = 1000
        self.take: Take | None = None

    def now_ms(self) -> int:
        return self.now

    def unix_ms(self) -> int:
        return self.now

    async def run(self, take: Take) -> None:
        self.take = take
        await anyio.sleep_forever()

    def say(self, used: int | None) -> None:
        assert self.take is not None
        self.take(DeviceSample(devices=(card(used),)), self.now)


@asynccontextmanager
async def sampled(used: int | None) -> AsyncIterator[tuple[Cards, Sampler]]:
    cards = Cards()
    sampler = Sampler(cards, cards, lambda: None)
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        await anyio.wait_all_tasks_blocked()
        cards.say(used)
        yield cards, sampler
        group.cancel_scope.cancel()


async def asked(sampler: Sampler, tmp_path: Path) -> LaunchRefused | None:
    try:
        await check_fit(pool(tmp_path), NEEDED, ("GPU-a",), sampler, GIB // 2)
    except LaunchRefused as refused:
        return refused
    return None


@pytest.mark.parametrize(("used_later", "is_refused"), [(0, False), (6 * GIB, True)])
async def test_only_a_sample_begun_after_the_call_refuses(
    tmp_path: Path, used_later: int, is_refused: bool
) -> None:
    """LO-POOL-095: the replica that filled the card may be gone since."""
    answers: list[LaunchRefused | None] = []
    async with sampled(8 * GIB) as (cards, sampler), anyio.create_task_group() as group:

        async def ask() -> None:
            answers.append(await asked(sampler, tmp_path))

        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        cards.say(8 * GIB)
        await anyio.wait_all_tasks_blocked()
        assert not answers
        cards.now += 1
        cards.say(used_later)
    refused = answers[0]
    assert (refused is not None) == is_refused
    if refused is not None:
        assert refused.failure.reason is FailureReason.INSUFFICIENT_VRAM
        assert "m needs 4.0 GiB on GPU 0 (Card)" in refused.failure.message
        assert "1.5 GiB are free after the reserve of 0.5" in refused.failure.message


async def test_a_model_that_fits_waits_for_no_sample(tmp_path: Path) -> None:
    async with sampled(0) as (_, sampler):
        with anyio.fail_after(5):
            assert await asked(sampler, tmp_path) is None


@pytest.mark.parametrize(("used", "later_ms"), [(None, 0), (8 * GIB, 10_001)])
async def test_figures_that_are_missing_or_old_refuse_nothing(
    tmp_path: Path, used: int | None, later_ms: int
) -> None:
    """LO-POOL-095."""
    async with sampled(used) as (cards, sampler):
        cards.now += later_ms
        with capture_logs() as lines, anyio.fail_after(5):
            assert await asked(sampler, tmp_path) is None
        assert [line["event"] for line in lines] == ["fit.unknown"]


async def test_a_gguf_is_estimated_from_its_header(tmp_path: Path) -> None:
    """LO-POOL-091: 8 KV heads of 128 in 2 layers are 8 KiB for each token."""
    geometry = numbers(**GEOMETRY, attention__head_count_kv=8)
    tensors = (tensor("blk.0.x", 8), tensor("blk.1.x", 8, offset=32), tensor("o", 8, offset=64))
    path = file_of(tmp_path, *geometry, tensors=tensors, data=96)
    needed = await needed_memory(pool(path, slots=2), path)
    assert needed is not None
    assert (needed.weights, needed.kv_cache) == (96, 2048 * 8192)
    assert needed.compute == 512 * 4096 * 4


@pytest.mark.parametrize(
    ("more", "width"),
    [
        ({}, 2 * 2 * 4096),
        ({"attention__key_length": 64, "attention__value_length": 32}, 2 * 32 * 96),
        ({"attention__kv_lora_rank": 512, "rope__dimension_count": 64}, 2 * 576),
        ({"nextn_predict_layers": 1}, 2 * 4096),
        ({"full_attention_interval": 2}, 2 * 4096),
        ({"attention__causal": 0}, 0),
    ],
)
async def test_layers_that_cache_less_are_counted_for_less(
    tmp_path: Path, more: dict[str, int], width: int
) -> None:
    path = file_of(tmp_path, *numbers(**GEOMETRY, **more))
    needed = await needed_memory(pool(path), path)
    assert needed is not None
    assert needed.kv_cache == 1024 * width * 2


@pytest.mark.parametrize(
    ("architecture", "more", "cached"),
    [
        ("llama4", {}, 2 * (8192 + 512)),
        ("llama4", {"attention__sliding_window": 0}, 2 * 16_384),
        ("gemma4", {"attention__sliding_window": 1024, "attention__key_length_swa": 64}, 2304),
        ("qwen3next", {}, 0),
        ("qwen35", {"full_attention_interval": 2}, 16_384),
    ],
)
async def test_what_an_architecture_caches_untold_is_counted(
    tmp_path: Path, architecture: str, more: dict[str, int], cached: int
) -> None:
    """LO-POOL-091: in rows of 4096 keys and as many values, of both layers together."""
    geometry = numbers(architecture, **GEOMETRY, **more)
    path = file_of(tmp_path, *geometry, architecture=architecture)
    needed = await needed_memory(pool(path, ctx=16_384), path)
    assert needed is not None
    assert needed.kv_cache == cached * 2 * 4096 * 2


async def test_a_layer_without_heads_caches_nothing_in_latent_attention_either(
    tmp_path: Path,
) -> None:
    """LO-POOL-091: as in models that mix it with layers of a state of fixed size."""
    heads = pair("kimi.attention.head_count_kv", ARRAY, struct.pack("<IQII", U32, 2, 0, 1))
    geometry = numbers("kimi", **GEOMETRY, attention__kv_lora_rank=512)
    path = file_of(tmp_path, *geometry, heads, architecture="kimi")
    needed = await needed_memory(pool(path), path)
    assert needed is not None
    assert needed.kv_cache == 1024 * 512 * 2


async def test_tables_and_layers_that_stay_off_the_card_are_not_counted(tmp_path: Path) -> None:
    """LO-POOL-091: of what is looked up in, a tied table of the tokens alone is on the card."""
    names = ("token_embd.weight", "per_layer_token_embd.weight", "blk.0.x", "blk.1.x")
    tensors = [tensor(name, 8, offset=32 * at) for at, name in enumerate(names)]
    geometry = numbers(**GEOMETRY, nextn_predict_layers=1)
    path = file_of(tmp_path, *geometry, tensors=tuple(tensors), data=128)
    needed = await needed_memory(pool(path), path)
    assert needed is not None
    assert needed.weights == 64


async def test_a_damaged_gguf_is_refused_but_any_file_will_do_for_a_command(
    tmp_path: Path,
) -> None:
    """LO-POOL-096."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"any file will do")
    with pytest.raises(LaunchRefused) as refused:
        await needed_memory(pool(path), path)
    assert refused.value.failure.reason is FailureReason.MODEL_INVALID
    assert f"{path}: at offset 0: it does not begin with GGUF" in str(refused.value)
    assert await needed_memory(pool(path, "command"), path) == Estimate(weights=16)
    asked_for = pool(path, "command", engine_args=["-ngl", "5"])
    assert await needed_memory(asked_for, path) is None


async def test_a_gguf_of_a_kind_not_known_here_is_left_to_the_engine(tmp_path: Path) -> None:
    path = file_of(tmp_path, version=4)
    with capture_logs() as lines:
        assert await needed_memory(pool(path), path) is None
    assert "version 4 is not known here" in lines[0]["message"]


@pytest.mark.parametrize(
    ("free", "arguments", "holds"),
    [
        (4 * GIB, [], True),
        (2 * GIB, [], False),
        (4 * GIB, ["--cpu-moe"], False),
        (2 * GIB, ["-ngl", "0"], True),
        (4 * GIB, ["-c", "1000000"], False),
    ],
)
async def test_room_for_a_reload_is_told_by_the_same_estimate(
    tmp_path: Path, free: int, arguments: list[str], holds: bool
) -> None:
    """LO-POOL-097: 2 GiB of weights, and what a context adds."""
    size = 2 * GIB
    path = file_of(
        tmp_path, *numbers(**GEOMETRY), tensors=(tensor("blk.1.x", size // 4),), data=size
    )
    entry = ReplicaEntry(pool(path, engine_args=arguments), 0, 0)
    async with sampled(8 * GIB - free) as (_, sampler):
        assert await Room(sampler, 0).holds(entry) is holds


async def test_there_is_room_to_try_what_its_launch_refuses(tmp_path: Path) -> None:
    path = file_of(tmp_path, pair("k", 77, b""))
    async with sampled(8 * GIB) as (_, sampler):
        assert await Room(sampler, 0).holds(ReplicaEntry(pool(path), 0, 0))
