"""What every attempt works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from contracts.config import Supervision, Timeouts
from contracts.service.failpoints import Failpoints
from orchestratord.clients.pools import LEASE_TTL_MS, PoolsClient
from orchestratord.clock import Clock
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.stores.tasks import TaskStore
from worker_adapters.registry import Engine
from worker_adapters.transport import EngineTransport

RENEWALS_PER_STALL = 3
"""pool_managerd reads from renewals whether an engine moves: it must hear several in that time."""
RENEW_EVERY_MS_MIN = 1_000


@dataclass(frozen=True, slots=True)
class AttemptTools:
    """What an attempt works with; one set for the daemon."""

    pools: PoolsClient
    engines: Mapping[str, Engine]
    transport: EngineTransport
    store: TaskStore
    clock: Clock
    timeouts: Timeouts
    failpoints: Failpoints
    supervision: Supervision
    view: PoolsView
    odd_slots: set[str] = field(default_factory=set)
    """Replicas that were seen to serve another slot than was leased."""

    @property
    def renew_every_s(self) -> float:
        """How often a lease is renewed: a third of its TTL, and often enough for a stall."""
        stall_ms = self.supervision.stall_ms or self.timeouts.idle_token_ms
        often = max(RENEW_EVERY_MS_MIN, stall_ms // RENEWALS_PER_STALL)
        return min(LEASE_TTL_MS // 3, often) / 1000
