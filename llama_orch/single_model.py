"""`up --model FILE.gguf`: a configuration made from one file and a few numbers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import get_args

from contracts.config import Binary, Config, Embedded, ModelConfig, Pool, ReplicaConfig
from contracts.ids import MODEL_ID_PATTERN
from contracts.pools import PoolWorkload
from llama_orch.failures import Failed, UsageMistake

GGUF_MAGIC = b"GGUF"
GGUF_HEADER_BYTES = 24
GPU_DIRECTORY = Path("/proc/driver/nvidia/gpus")
POOL_ID = "default"
WORKLOADS: tuple[PoolWorkload, ...] = get_args(PoolWorkload)


def with_single_model(
    base: Config,
    model: Path,
    *,
    ctx: int,
    slots: int,
    devices: str | None,
    workload: str | None = None,
) -> Config:
    """`base` with one pool that serves `model`, for generation where no `workload` is named.

    `devices` is `0,1` (one llama-server on each card), `cpu`, or None, which is
    the CPU where no NVIDIA card is seen.

    Raises:
        UsageMistake: the file is no model, there is no such workload, a number is out of
            bounds, or there are cards and none was chosen.
        Failed: cards were chosen and there is no llama-server.
    """
    problem = gguf_problem(model)
    if problem is not None:
        raise UsageMistake(f"--model: {problem}")
    if workload is not None and workload not in WORKLOADS:
        raise UsageMistake(f"--workload: write one of {', '.join(WORKLOADS)}")
    replicas = _replicas(devices)
    on_gpu = any(replica.devices for replica in replicas)
    if on_gpu and shutil.which("llama-server") is None:
        raise Failed(
            "--devices: there is no `llama-server` on PATH; install llama.cpp built for your"
            " cards, or use `--devices cpu`"
        )
    pool = Pool(
        id=POOL_ID,
        engine="llamacpp",
        model=ModelConfig(id=model_id(model), ref=f"file:{model.absolute()}"),
        ctx=ctx,
        slots=slots,
        workload=workload or "generation",
        replicas=replicas,
        provisioning=(
            Binary(mode="binary", path="llama-server") if on_gpu else Embedded(mode="embedded")
        ),
    )
    return base.model_copy(update={"pools": (pool,)})


def gguf_problem(path: Path) -> str | None:
    """Why `path` cannot be a GGUF model, as one line, or None."""
    try:
        if path.is_dir():
            return f"{path} is a directory; name the .gguf file in it"
        with path.open("rb") as file:
            header = file.read(GGUF_HEADER_BYTES)
    except FileNotFoundError:
        return f"{path} does not exist"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if not header.startswith(GGUF_MAGIC):
        return f"{path} is not a GGUF file (it does not begin with `GGUF`)"
    if len(header) < GGUF_HEADER_BYTES:
        return f"{path} is cut off: it holds {len(header)} bytes"
    return None


def model_id(path: Path) -> str:
    """A model id made of a file's name: what is not allowed becomes a dash."""
    name = re.sub(r"[^A-Za-z0-9._:-]+", "-", path.name.removesuffix(".gguf"))
    name = name.lstrip("._:-")[:128].rstrip("-")
    return name if re.fullmatch(MODEL_ID_PATTERN, name) else "model"


def _replicas(devices: str | None) -> tuple[ReplicaConfig, ...]:
    if devices is None:
        cards = _cards_seen()
        if cards:
            every = ",".join(str(index) for index in range(cards))
            raise UsageMistake(
                f"this machine has {cards} NVIDIA card{'s' if cards > 1 else ''}: choose with"
                f" `--devices {every}`, or `--devices cpu`"
            )
        return (ReplicaConfig(devices=()),)
    if devices == "cpu":
        return (ReplicaConfig(devices=()),)
    return tuple(ReplicaConfig(devices=(_device(item),)) for item in devices.split(","))


def _device(item: str) -> int | str:
    item = item.strip()
    if re.fullmatch(r"[0-9]{1,3}", item):
        return int(item)
    if re.fullmatch(r"GPU-[0-9a-fA-F-]{1,64}", item):
        return item
    raise UsageMistake(f"--devices: `{item}` is no card; write indexes or UUIDs: --devices 0,1")


def _cards_seen() -> int:
    """NVIDIA cards as the kernel driver lists them; 0 without it."""
    try:
        return sum(1 for _ in GPU_DIRECTORY.iterdir())
    except OSError:
        return 0
