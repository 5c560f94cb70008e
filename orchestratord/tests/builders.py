"""Values that tests of many modules need, with everything they do not care for filled in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from contracts.config import Pool
from contracts.engines import Feature, ReplicaCapabilities
from contracts.pools import (
    DeviceView,
    FailureReason,
    LastError,
    PoolChange,
    PoolView,
    ReloadState,
    ReloadView,
    ReplicaState,
    ReplicaView,
    Snapshot,
)
from contracts.tasks import TaskRequest, Workload
from orchestratord.domain.pool_spec import PoolSpec

GIB = 2**30
DIGEST = "sha256:" + "0" * 64
TASK_ID = "abcdef01-1111-4111-8111-111111111111"
CHAT = PoolSpec(
    pool_id="chat", engine="llamacpp", model_id="tiny", model_ref="file:/models/tiny", ctx=512
)


def configured(pool_id: str = "chat") -> Pool:
    """A pool as the configuration has it; `PoolSpec.of` makes CHAT of it."""
    tree = {
        "id": pool_id,
        "engine": "llamacpp",
        "model": {"id": "tiny", "ref": "file:/models/tiny"},
        "ctx": 512,
        "slots": 2,
        "provisioning": {"mode": "external", "url": "http://127.0.0.1:9"},
    }
    return Pool.model_validate_json(json.dumps(tree))


def task_request(**fields: Any) -> TaskRequest:
    """A request as it comes from the wire, so that only what was sent counts as set."""
    body = {"model": "tiny", "prompt": "once", "max_tokens": 8} | fields
    sent = {name: value for name, value in body.items() if value is not None}
    return TaskRequest.model_validate_json(json.dumps(sent))


def replica(
    number: int = 0,
    *,
    pool_id: str = "chat",
    state: ReplicaState = ReplicaState.READY,
    slots: int = 1,
    devices: tuple[str, ...] = (),
    pid: int | None = None,
    cut_at_ms: int | None = None,
    capabilities: ReplicaCapabilities | None = None,
) -> ReplicaView:
    return ReplicaView(
        replica_id=f"{pool_id}/{number}",
        state=state,
        devices=devices,
        base_url="http://127.0.0.1:9",
        engine_version="b100",
        model_digest=DIGEST,
        ctx=512,
        slots_total=slots,
        slots_used=0,
        restarts=0,
        last_error=None,
        kv_cache_usage=None,
        pid=pid,
        cut_at_ms=cut_at_ms,
        capabilities=capabilities,
    )


def abilities(
    *workloads: Workload,
    without: Iterable[Feature] = (),
    strict_refusal: str | None = None,
    trtllm_version: str | None = None,
    settings_digest: str | None = "a" * 64,
) -> ReplicaCapabilities:
    """Of an engine that can do everything but what is named; completion and chat by default."""
    left_out = set(without)
    return ReplicaCapabilities(
        workloads=workloads or (Workload.COMPLETION, Workload.CHAT),
        features=tuple(feature for feature in Feature if feature not in left_out),
        strict_refusal=strict_refusal,
        trtllm_version=trtllm_version,
        settings_digest=settings_digest,
    )


def last_error(message: str = "the model file is missing") -> LastError:
    return LastError(reason=FailureReason.MODEL_MISSING, message=message, at_ms=1, log_tail=())


def pool_view(*replicas: ReplicaView, pool_id: str = "chat", **fields: Any) -> PoolView:
    ready = any(replica.state is ReplicaState.READY for replica in replicas)
    filled: dict[str, Any] = {
        "live": ready,
        "ready": ready,
        "draining": False,
        "progressing": True,
        "restarts": 0,
        "breaker": "closed",
        "last_error": None,
    } | fields
    return PoolView(
        pool_id=pool_id,
        replicas=replicas,
        engine="llamacpp",
        model_id="tiny",
        model_ref="file:/models/tiny",
        ctx=512,
        slots=1,
        **filled,
    )


def reload_view(
    state: ReloadState = ReloadState.RUNNING, to_ref: str = "file:/models/new"
) -> ReloadView:
    return ReloadView(
        state=state, from_ref="file:/models/tiny", to_ref=to_ref, message="loading", at_ms=1
    )


def pool_change(
    change: Literal["drain", "reload", "resume"],
    version: int,
    *,
    draining: bool | None = None,
    instance_id: str = TASK_ID,
    cut_at_ms: int | None = None,
) -> PoolChange:
    return PoolChange(
        pool_id="chat",
        change=change,
        draining=change == "drain" if draining is None else draining,
        cut_at_ms=cut_at_ms,
        instance_id=instance_id,
        version=version,
    )


def device(uuid: str, total_gib: int, used_gib: int | None = 0, health: str = "ok") -> DeviceView:
    return DeviceView(
        index=0,
        uuid=uuid,
        name=uuid,
        total_bytes=total_gib * GIB,
        used_bytes=None if used_gib is None else used_gib * GIB,
        health=health,
    )


def snapshot(
    *pools: PoolView,
    devices: Sequence[DeviceView] = (),
    version: int = 1,
    instance_id: str = TASK_ID,
) -> Snapshot:
    return Snapshot(
        version=version,
        instance_id=instance_id,
        at_ms=1,
        pools=pools,
        devices=tuple(devices),
        devices_age_ms=0,
    )
