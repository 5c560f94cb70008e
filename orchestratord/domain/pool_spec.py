"""What the configuration says of a pool, as far as tasks are concerned."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.config import Pool
from contracts.pools import PoolWorkload


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What the configuration says of a pool."""

    pool_id: str
    engine: str
    model_id: str
    model_ref: str
    ctx: int
    workload: PoolWorkload = "generation"

    @classmethod
    def of(cls, pool: Pool) -> PoolSpec:
        """The part of a configured pool that admission needs."""
        return cls(pool.id, pool.engine, pool.model.id, pool.model.ref, pool.ctx, pool.workload)
