"""Everything about a launch that can be known before a process exists."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from contracts.pools import FailureReason
from contracts.service.settings import model_file
from pool_managerd.domain.devices import DevicesRefused, resolve, split_by_memory
from pool_managerd.failure import LaunchRefused
from pool_managerd.provisioning.registry import PLANNERS
from pool_managerd.replica import Endpoint, ReplicaEntry
from pool_managerd.telemetry.sampler import Sampler, TelemetrySilent
from worker_adapters.base import LaunchPlan, LaunchSpec

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch, ready to be started."""

    spec: LaunchSpec
    plan: LaunchPlan
    model: Path

    @property
    def endpoint(self) -> Endpoint:
        """Where it will serve, with the key of this launch."""
        return Endpoint(f"http://{HOST}:{self.spec.port}", self.spec.api_key)


async def prepare(entry: ReplicaEntry, telemetry: Sampler) -> Launch:
    """A launch on a port that is free now, with a fresh key.

    Raises:
        LaunchRefused: the model, the program or a card is missing, or the
            configuration asks for what cannot be.
    """
    pool = entry.pool
    model = await anyio.to_thread.run_sync(_model, entry)
    device_uuids = await _devices(entry, telemetry)
    spec = LaunchSpec(
        model_path=model,
        model_alias=pool.model.id,
        host=HOST,
        port=_free_port(),
        ctx=pool.ctx,
        slots=pool.slots,
        device_uuids=device_uuids,
        tensor_split=split_by_memory(device_uuids, telemetry.devices),
        engine_args=pool.engine_args,
        api_key=secrets.token_urlsafe(32),
    )
    try:
        plan = await anyio.to_thread.run_sync(PLANNERS[pool.provisioning.mode], pool, spec)
    except ValueError as error:
        raise LaunchRefused(FailureReason.BAD_ARGUMENT, str(error)) from error
    return Launch(spec, plan, model)


def _model(entry: ReplicaEntry) -> Path:
    ref = entry.pool.model.ref
    path = model_file(ref)
    if path is None or not path.is_file():
        raise LaunchRefused(
            FailureReason.MODEL_MISSING,
            f"pools[{entry.pool_index}].model.ref: no such file: {path or ref};"
            " put the model there, then restart pool_managerd",
        )
    return path


async def _devices(entry: ReplicaEntry, telemetry: Sampler) -> tuple[str, ...]:
    wanted = entry.pool.replicas[entry.index].devices
    if wanted == ():
        return ()
    try:
        return resolve(wanted, await telemetry.known(), entry.devices_key)
    except DevicesRefused as error:
        raise LaunchRefused(FailureReason.BAD_ARGUMENT, str(error)) from error
    except TelemetrySilent as error:
        raise LaunchRefused(FailureReason.UNREACHABLE, str(error)) from error


def _free_port() -> int:
    """A port free at this moment; whoever takes it first makes the launch fail and try again."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
