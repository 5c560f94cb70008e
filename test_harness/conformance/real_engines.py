"""The real engines of this machine, started by their own launchers.

An engine that is not there has a reason that names the variable to set;
`ci/engines` makes what the variables name.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import anyio

from contracts.service.settings import child_environment
from contracts.tasks import Workload
from test_harness.ports import free_port
from test_harness.tiny_models.tiny_hf import write_folder
from test_harness.triton_models.repository import write_text_model
from worker_adapters.base import EngineClient, LaunchPlan, LaunchSpec
from worker_adapters.errors import EngineBusy, EngineLost, EngineUnreachable
from worker_adapters.registry import ENGINES, new_client
from worker_adapters.tiny_gguf import write_model
from worker_adapters.transport import EngineTransport

CTX = 512
KEY = "a-key-of-this-test"
POLL_S = 0.05
STOP_S = 20.0
VLLM_ON_THE_CPU = ("--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", "1G")
"""The arithmetic of llama.cpp, and a cache that leaves the machine its memory."""


@dataclass(frozen=True)
class RealEngine:
    """One real engine: what it runs, how it is started, and what it promises."""

    name: str
    engine: str
    """Its dialect."""
    mode: str
    """The provisioning mode whose launcher starts it."""
    prepare: Callable[[Path], Path]
    """Writes its model into a folder; returns what the launcher is told."""
    variable: str | None = None
    """Names its program; None: it is always there."""
    runs_already: bool = False
    """Whether the variable names the address of one that somebody else runs, without a key."""
    engine_args: Callable[[], tuple[str, ...]] = tuple
    slots: int = 2
    start_s: float = 30.0
    exact: bool = True
    """Whether equal requests, one after the other, give equal bytes."""
    ends_early: bool = True
    """Whether a text may end by itself."""
    workloads: frozenset[Workload] = frozenset({Workload.COMPLETION, Workload.CHAT})

    @property
    def program(self) -> str | None:
        """What the variable names."""
        return None if self.variable is None else os.environ.get(self.variable)

    @property
    def missing(self) -> str | None:
        """Why it cannot be had here; None: it can."""
        if self.variable is None or self.program:
            return None
        remedy = (
            "the URL of one that runs" if self.runs_already else "ci/engines makes what it names"
        )
        return f"{self.variable} is not set; {remedy}"


def _tiny_hf(folder: Path) -> Path:
    write_folder(folder / "tiny")
    return folder / "tiny"


def _tiny_gguf(folder: Path) -> Path:
    write_model(folder / "tiny.gguf")
    return folder / "tiny.gguf"


def _text_model(folder: Path) -> Path:
    write_text_model(folder / "models", "tiny", ctx=CTX)
    return folder / "models"


REAL: Mapping[str, RealEngine] = MappingProxyType(
    {
        real.name: real
        for real in (
            RealEngine("embedded", "llamacpp", "embedded", _tiny_gguf),
            RealEngine(
                "llama-server", "llamacpp", "binary", _tiny_gguf, variable="LLORCH_LLAMA_SERVER"
            ),
            RealEngine(
                "vllm",
                "vllm",
                "binary",
                _tiny_hf,
                variable="LLORCH_VLLM_PYTHON",
                engine_args=lambda: VLLM_ON_THE_CPU,
                start_s=180.0,
            ),
            RealEngine(
                "triton",
                "triton",
                "binary",
                _text_model,
                variable="LLORCH_TRITON",
                workloads=frozenset({Workload.COMPLETION}),
            ),
            RealEngine(
                "tgi",
                "tgi",
                "external",
                lambda folder: folder,
                variable="LLORCH_TGI_URL",
                runs_already=True,
                exact=False,
            ),
        )
    }
)


@asynccontextmanager
async def serving(real: RealEngine, folder: Path, slots: int) -> AsyncIterator[EngineClient]:
    """A client of the engine, once it says that it serves; its process group is ended after.

    The engine outlives no test session: its group is killed where TERM does not do.
    """
    if real.runs_already:
        assert real.program is not None
        async with EngineTransport() as transport:
            yield new_client(real.engine, transport, real.program, None)
        return
    spec = LaunchSpec(
        model_path=await anyio.to_thread.run_sync(real.prepare, folder),
        model_alias="tiny",
        host="127.0.0.1",
        port=free_port(),
        ctx=CTX,
        slots=slots,
        device_uuids=(),
        engine_args=real.engine_args(),
        api_key=KEY,
        binary=real.program,
    )
    plan = ENGINES[real.engine].launchers[real.mode].plan(spec)
    log = folder / "log"
    process = await anyio.to_thread.run_sync(_start, plan, log)
    try:
        async with EngineTransport() as transport:
            base_url = f"http://{spec.host}:{spec.port}"
            client = new_client(real.engine, transport, base_url, KEY)
            await _until_serving(client, process, log, real.start_s)
            yield client
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_end, process)


def _start(plan: LaunchPlan, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            plan.argv,
            env=child_environment(plan.env),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


async def _until_serving(
    client: EngineClient, process: subprocess.Popen[bytes], log: Path, start_s: float
) -> None:
    with anyio.move_on_after(start_s):
        while process.poll() is None:
            try:
                await client.observe()
            except (EngineBusy, EngineUnreachable, EngineLost):
                await anyio.sleep(POLL_S)
            else:
                return
    raise AssertionError(f"it does not serve: {await anyio.Path(log).read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
