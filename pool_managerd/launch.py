"""Everything about a launch that can be known before a process exists."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contracts.pools import DeviceView, FailureReason, Preparation
from pool_managerd.domain.devices import DevicesRefused, is_lost, resolve, split_by_memory
from pool_managerd.domain.xid import XidAction, xid_verdict
from pool_managerd.failure import LaunchRefused
from pool_managerd.fitting import check_fit, needed_memory
from pool_managerd.models.resolve import ModelResolver
from pool_managerd.provisioning.registry import MODES
from pool_managerd.provisioning.tools import ProvisioningTools
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


async def prepare(
    entry: ReplicaEntry,
    telemetry: Sampler,
    tools: ProvisioningTools,
    reserve_bytes: int,
) -> Launch:
    """A launch on a port that is free now, with a fresh key.

    `tools.preparing` is told how far it has come.

    Raises:
        LaunchRefused: the model, the program or a card is missing, or the
            configuration asks for what cannot be, or the model is no sound one or
            does not fit: `reserve_bytes` of each card stay free.
    """
    pool = entry.pool
    model = await _model(entry, tools.models, tools.preparing)
    device_uuids = await _devices(entry, telemetry)
    needed = await needed_memory(pool, model)
    if device_uuids and needed is not None:
        await check_fit(pool, needed, device_uuids, telemetry, reserve_bytes)
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
        workload=pool.workload,
        api_key=secrets.token_urlsafe(32),
    )
    try:
        plan = await MODES[pool.provisioning.mode].provision(pool, spec, tools)
    except ValueError as error:
        raise LaunchRefused(FailureReason.BAD_ARGUMENT, str(error)) from error
    except (OSError, TimeoutError) as error:
        # A full disk or a build without end is one pool's trouble, not the daemon's.
        raise LaunchRefused(
            FailureReason.PROVISIONING_FAILED, f"pool {pool.id}: its engine cannot be made: {error}"
        ) from error
    return Launch(spec, plan, model)


async def _model(
    entry: ReplicaEntry, models: ModelResolver, preparing: Callable[[Preparation | None], None]
) -> Path:
    model, kind = entry.pool.model, entry.pool.model_kind
    try:
        return await models.resolve(
            model.ref, model.digest, preparing, holder=entry.replica_id, kind=kind
        )
    except LaunchRefused as refused:
        message = f"pools[{entry.pool_index}].{refused.failure.message}"
        if not refused.failure.message.startswith("model.ref: "):
            message = f"pools[{entry.pool_index}].model: {refused.failure.message}"
        raise LaunchRefused(refused.failure.reason, message) from refused
    finally:
        preparing(None)


async def _devices(entry: ReplicaEntry, telemetry: Sampler) -> tuple[str, ...]:
    wanted = entry.pool.replicas[entry.index].devices
    if wanted == ():
        return ()
    try:
        uuids = resolve(wanted, await telemetry.known(), entry.devices_key)
    except DevicesRefused as error:
        raise LaunchRefused(FailureReason.BAD_ARGUMENT, str(error)) from error
    except TelemetrySilent as error:
        raise LaunchRefused(FailureReason.UNREACHABLE, str(error)) from error
    for device in telemetry.devices:
        if device.uuid in uuids:
            _refuse_if_lost(device)
    return uuids


def _refuse_if_lost(device: DeviceView) -> None:
    """Nothing is started on a card that only a reset of the driver brings back."""
    verdict = None if device.xid is None else xid_verdict(device.xid)
    condemned = verdict is not None and verdict.action is XidAction.LOSE_DEVICE
    if is_lost(device) or condemned:
        why = verdict.remedy if verdict is not None and condemned else "it is lost"
        raise LaunchRefused(
            FailureReason.GPU_LOST,
            f"GPU {device.index} ({device.name}): {why}; reset the card or reboot, then restart"
            " pool_managerd",
        )


def _free_port() -> int:
    """A port free at this moment; whoever takes it first makes the launch fail and try again."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
