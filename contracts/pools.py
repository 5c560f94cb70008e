"""What pool_managerd says of pools, replicas and devices, and what it accepts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from contracts.engines import ReplicaCapabilities
from contracts.ids import Digest, PoolId, ReplicaId, Uuid
from contracts.model import (
    MILLISECONDS_MAX,
    ByteCount,
    Contract,
    Milliseconds,
    Omissible,
    Ratio,
    TokenCount,
    UnixMilliseconds,
)
from contracts.tasks import Workload

PoolWorkload = Literal["generation", "embedding", "rerank"]
"""What the engines of a pool are started for; generation is completion and chat."""
WORKLOADS: Mapping[PoolWorkload, frozenset[Workload]] = MappingProxyType(
    {
        "generation": frozenset({Workload.COMPLETION, Workload.CHAT}),
        "embedding": frozenset({Workload.EMBEDDING}),
        "rerank": frozenset({Workload.RERANK}),
    }
)
"""What the tasks of a pool may ask for."""
MODEL_REF_PATTERN = r"^(file|hf|https|s3|oci):.+$"


class ReplicaState(StrEnum):
    """The life of one engine process; the moves are in pool_managerd's table."""

    STOPPED = "stopped"
    PROVISIONING = "provisioning"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"
    UNHEALTHY = "unhealthy"


class FailureReason(StrEnum):
    """Why a replica is not serving, from a closed list (also a metric label).

    `XID_n` are the errors that NVIDIA's catalogue calls fatal to an application;
    one that takes the card with it reads as GPU_LOST, any other as XID_OTHER.
    """

    BAD_ARGUMENT = "BAD_ARGUMENT"
    CRASH = "CRASH"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    DOWNLOAD_DENIED = "DOWNLOAD_DENIED"
    DOWNLOAD_FAILED = "DOWNLOAD_FAILED"
    EXITED = "EXITED"
    GPU_LOST = "GPU_LOST"
    HOST_OOM = "HOST_OOM"
    IDENTITY_MISMATCH = "IDENTITY_MISMATCH"
    INSUFFICIENT_VRAM = "INSUFFICIENT_VRAM"
    MODEL_INVALID = "MODEL_INVALID"
    MODEL_MISSING = "MODEL_MISSING"
    NOT_PROGRESSING = "NOT_PROGRESSING"
    PORT_TAKEN = "PORT_TAKEN"
    PROVISIONING_FAILED = "PROVISIONING_FAILED"
    START_TIMEOUT = "START_TIMEOUT"
    TOOL_MISSING = "TOOL_MISSING"
    UNREACHABLE = "UNREACHABLE"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    VRAM_HELD = "VRAM_HELD"
    VRAM_OOM = "VRAM_OOM"
    WORKLOAD_MISSING = "WORKLOAD_MISSING"
    XID_13 = "XID_13"
    XID_31 = "XID_31"
    XID_43 = "XID_43"
    XID_45 = "XID_45"
    XID_48 = "XID_48"
    XID_63 = "XID_63"
    XID_64 = "XID_64"
    XID_74 = "XID_74"
    XID_94 = "XID_94"
    XID_95 = "XID_95"
    XID_OTHER = "XID_OTHER"


class LastError(Contract):
    """The newest failure of a replica, in plain words."""

    reason: FailureReason = Field(description="From the closed list.")
    message: str = Field(max_length=2048, description="What happened and what to do.")
    at_ms: UnixMilliseconds = Field(description="When, Unix ms.")
    log_tail: tuple[str, ...] = Field(max_length=40, description="The last lines it wrote.")


class DeviceProcess(Contract):
    """A process that holds memory on a card."""

    pid: int = Field(ge=0, description="Process id.")
    used_bytes: ByteCount | None = Field(description="Its memory; null where not told.")


class DeviceView(Contract):
    """One GPU as of the newest sample; null where the source cannot tell."""

    index: int = Field(ge=0, le=1023, description="Index in PCI bus order.")
    uuid: str = Field(min_length=1, max_length=128, description="Stable id of the card.")
    name: str = Field(max_length=128, description="Product name.")
    total_bytes: ByteCount = Field(description="Memory in all.")
    used_bytes: ByteCount | None = Field(description="Memory in use.")
    utilization: Ratio | None = Field(default=None, description="Busy share, 0 to 1.")
    temperature_c: float | None = Field(default=None, description="Degrees Celsius.")
    power_w: float | None = Field(default=None, ge=0, description="Watts drawn.")
    health: str = Field(default="ok", max_length=64, description="`ok`, or what is wrong.")
    xid: int | None = Field(
        default=None, ge=0, le=65535, description="The newest Xid error of the driver; null: none."
    )
    xid_count: int = Field(
        default=0, ge=0, description="Xid errors seen; tells a new one from an old one."
    )
    processes: tuple[DeviceProcess, ...] = Field(
        default=(), max_length=1024, description="Processes holding memory on it."
    )


class DeviceSample(Contract):
    """Everything one telemetry sample saw."""

    devices: tuple[DeviceView, ...] = Field(max_length=64, description="Cards seen.")


class Phase(StrEnum):
    """What a replica is busy with before it serves."""

    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    INSTALLING = "installing"
    BUILDING = "building"
    LOADING = "loading"


class Preparation(Contract):
    """How far a replica that does not serve yet has come."""

    phase: Phase = Field(description="What is being done.")
    what: str = Field(max_length=512, description="The file, package or image it is done to.")
    done: int | None = Field(default=None, ge=0, description="Bytes or steps; null: not told.")
    total: int | None = Field(default=None, ge=0, description="Of so many; null: not known.")
    since_ms: UnixMilliseconds = Field(description="When the phase began, Unix ms.")


class ReplicaView(Contract):
    """One engine process on one device mask."""

    replica_id: ReplicaId = Field(description="pool id, a slash, the entry's index.")
    state: ReplicaState = Field(description="Where it is in its life.")
    devices: tuple[str, ...] = Field(max_length=64, description="UUIDs of its mask; [] = CPU.")
    base_url: str | None = Field(max_length=512, description="Where it serves, while it runs.")
    pid: int | None = Field(default=None, ge=1, description="Its process group leader.")
    engine_version: str | None = Field(max_length=256, description="As the engine reports it.")
    model_digest: Digest | None = Field(description="sha256 of the model file; null: unknown.")
    ctx: TokenCount | None = Field(default=None, description="Tokens of context a slot serves.")
    slots_total: int = Field(ge=0, le=1024, description="Slots it serves; 0 until it is ready.")
    slots_used: int = Field(ge=0, le=1024, description="Slots under a lease.")
    restarts: int = Field(ge=0, description="Times it was started again after a failure.")
    last_error: LastError | None = Field(description="The newest failure.")
    kv_cache_usage: Ratio | None = Field(description="KV cache in use; null: not told.")
    kv_evictions: int | None = Field(
        default=None,
        ge=0,
        description="Running sequences whose KV cache was taken from them; null: not told.",
    )
    requests_running: int | None = Field(
        default=None, ge=0, description="Requests the engine works at; null: not told."
    )
    requests_waiting: int | None = Field(
        default=None, ge=0, description="Requests that wait inside the engine; null: not told."
    )
    capabilities: ReplicaCapabilities | None = Field(
        default=None, description="What it can be asked for; null until it told."
    )
    model_ref: str | None = Field(
        default=None, max_length=4096, description="The model it was started with."
    )
    degraded: str | None = Field(
        default=None, max_length=512, description="What makes it worse than configured, if so."
    )
    preparation: Preparation | None = Field(
        default=None, description="How far it has come before it serves; null: it is not coming up."
    )
    cut_at_ms: UnixMilliseconds | None = Field(
        default=None, description="While it drains: when its running tasks are cut, Unix ms."
    )


class ReloadState(StrEnum):
    """How a reload stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


class ReloadView(Contract):
    """The newest reload of a pool."""

    state: ReloadState = Field(
        description="rolled_back: the old model serves; failed: no model does."
    )
    from_ref: str = Field(max_length=4096, description="The model served before.")
    to_ref: str = Field(max_length=4096, description="The model asked for.")
    message: str = Field(max_length=2048, description="What it is doing, or how it ended.")
    at_ms: UnixMilliseconds = Field(description="Of this state, Unix ms.")


class PoolHealth(Contract):
    """Three questions: does it live, is it ready, does it progress."""

    pool_id: PoolId = Field(description="The pool.")
    live: bool = Field(description="At least one replica has a running process.")
    ready: bool = Field(description="At least one replica serves, and it is not draining.")
    draining: bool = Field(description="Admits no new lease.")
    progressing: bool = Field(description="No replica holds work without moving it.")
    restarts: int = Field(ge=0, description="Over all replicas.")
    breaker: Literal["closed", "open", "half_open"] = Field(
        description="open: every replica has stopped trying for now."
    )
    last_error: LastError | None = Field(description="The newest failure of any replica.")
    replicas: tuple[ReplicaView, ...] = Field(max_length=2000, description="Its replicas.")
    degraded: bool = Field(
        default=False, description="A replica serves worse than configured; see its `degraded`."
    )
    reload: ReloadView | None = Field(default=None, description="The newest reload; null: none.")


class PoolView(PoolHealth):
    """One engine, one model, its replicas, and their health."""

    engine: str = Field(max_length=64, description="The engine.")
    model_id: str = Field(max_length=128, description="The model's id.")
    model_ref: str = Field(max_length=4096, description="Where the model comes from.")
    ctx: TokenCount = Field(description="Tokens of context a task may use.")
    slots: int = Field(ge=1, le=1024, description="Slots per replica, as configured.")

    def health(self) -> PoolHealth:
        """Its health alone."""
        return PoolHealth(**{name: getattr(self, name) for name in PoolHealth.model_fields})


class Snapshot(Contract):
    """Everything pool_managerd knows, at one version."""

    version: int = Field(ge=0, description="Rises with every change; starts over with the daemon.")
    instance_id: Uuid = Field(description="This start of pool_managerd.")
    at_ms: UnixMilliseconds = Field(description="Unix ms.")
    pools: tuple[PoolView, ...] = Field(max_length=1000, description="Every pool.")
    devices: tuple[DeviceView, ...] = Field(max_length=64, description="Every card.")
    devices_age_ms: int | None = Field(
        ge=0, description="Age of the device figures, ms; null: no telemetry source."
    )


class LeaseRequest(Contract):
    """The right to one slot of a replica, fenced by task and epoch."""

    replica_id: ReplicaId = Field(description="The replica chosen.")
    task_id: Uuid = Field(description="The task.")
    epoch: int = Field(ge=1, description="Rises with every attempt of the task.")
    ttl_ms: Milliseconds = Field(ge=1000, le=600_000, description="Until it must be renewed, ms.")
    holder: Uuid = Field(description="This start of orchestratord; a new one voids the old.")
    preferred_slot: Omissible[Annotated[int, Field(ge=0, le=1023)]] = Field(
        default=None, description="The slot whose cache is warm; given if it is free."
    )


class Lease(Contract):
    """A slot, and how to reach it."""

    lease_id: Uuid = Field(description="The lease.")
    base_url: str = Field(max_length=512, description="The engine.")
    api_key: str | None = Field(max_length=256, description="The key of this launch.")
    slot: int = Field(ge=0, le=1023, description="The slot's number.")


class LeaseRenewal(LeaseRequest):
    """A renewal says everything again, so that a restarted manager can re-create it."""

    idle_ms: Omissible[Annotated[int, Field(ge=0, le=MILLISECONDS_MAX)]] = Field(
        default=None, description="Since the task last showed progress, ms; absent: not told."
    )


class DrainRequest(Contract):
    """Take no new work; running tasks may finish."""

    deadline_ms: Omissible[Milliseconds] = Field(
        default=None, description="Running tasks are cut then; absent: timeouts.drain_ms."
    )


class ReloadRequest(Contract):
    """Serve another model in the place of the present one."""

    new_model_ref: str = Field(
        pattern=MODEL_REF_PATTERN, max_length=4096, description="Where it comes from."
    )
    digest: Omissible[Digest] = Field(default=None, description="sha256 it must have.")
    deadline_ms: Omissible[Milliseconds] = Field(
        default=None,
        description="It must serve by then, and running tasks of the old one are cut then."
        " Absent: supervision.start_ms and timeouts.drain_ms.",
    )


class PoolChange(Contract):
    """A change of a pool that was begun; its health tells how it goes."""

    pool_id: PoolId = Field(description="The pool.")
    change: Literal["drain", "reload", "resume"] = Field(description="What was begun.")
    draining: bool = Field(description="Whether the pool refuses new tasks now.")
    cut_at_ms: UnixMilliseconds | None = Field(
        default=None, description="When running tasks are cut, Unix ms; null: they are not."
    )
    instance_id: Uuid = Field(description="The start of pool_managerd that answered.")
    version: int = Field(
        ge=0, description="The snapshot of that start from which on the change is to be seen."
    )


class Endpoint(Contract):
    """Where a replica serves, for questions that take no slot."""

    base_url: str = Field(max_length=512, description="The engine.")
    api_key: str | None = Field(max_length=256, description="The key of this launch.")
