"""What launching takes; one set for all replicas."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from contracts.service.failpoints import Failpoints
from pool_managerd.clock import Clock
from pool_managerd.identities import PoolIdentities
from pool_managerd.leasing import Leasing
from pool_managerd.log_keeper import LogKeeper
from pool_managerd.models.digest import ModelDigests
from pool_managerd.models.resolve import ModelResolver
from pool_managerd.run_records import RunRecords
from pool_managerd.telemetry.sampler import Sampler
from pool_managerd.watching import Patience
from worker_adapters.transport import EngineTransport


@dataclass(frozen=True, slots=True)
class LaunchTools:
    """What launching needs; one for all replicas."""

    records: RunRecords
    telemetry: Sampler
    digests: ModelDigests
    transport: EngineTransport
    state_dir: Path
    stop_grace_ms: int
    clock: Clock
    leasing: Leasing
    patience: Patience
    start_timeout_s: float
    reserve_bytes: int = 0
    """Of each card, to be left alone by every launch."""
    log_keeper: LogKeeper = field(default_factory=LogKeeper)
    downloads_allowed: bool = False
    models: ModelResolver = field(default_factory=ModelResolver.files_only)
    failpoints: Failpoints = field(default_factory=Failpoints.none)
    identities: PoolIdentities = field(default_factory=PoolIdentities)
