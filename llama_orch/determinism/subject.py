"""What a proof is about: a pool as it serves now, and the request that is put to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contracts.capabilities import Capabilities, PoolPage, PoolStatus
from contracts.pools import DeviceView, ReplicaState, ReplicaView
from contracts.proofs import Header, ProvenPool, ProvenReplica, ProvenSampler, Round
from contracts.tasks import TaskRequest
from llama_orch.api import Api
from llama_orch.failures import Failed

CPU = "CPU"


@dataclass(frozen=True)
class Ask:
    """The request of every run, but for its seed, and where it goes."""

    pool_id: str
    prompt: str
    max_tokens: int
    sampler: ProvenSampler
    seeds: tuple[int, ...]
    rounds: tuple[Round, ...]

    def request(self, pool_id: str) -> TaskRequest:
        """What is put to pool `pool_id`."""
        fields: dict[str, Any] = {
            "pool_id": pool_id,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "determinism": "strict",
            "sampler_profile_version": self.sampler.version,
        }
        return TaskRequest(**fields)


async def header_of(api: Api, ask: Ask, created_ms: int) -> Header:
    """The header of a proof about `ask`, of the pool as it serves now.

    Raises:
        Failed: the pool cannot be the subject of a proof; says why.
        CommandFailure: as `Api.get`.
    """
    capabilities = await api.get("/v1/capabilities", Capabilities)
    page = await api.get("/v1/pools", PoolPage)
    pool = next((each for each in page.items if each.pool_id == ask.pool_id), None)
    if pool is None:
        known = ", ".join(each.pool_id for each in page.items) or "none"
        raise Failed(f"there is no pool {ask.pool_id}; there are: {known}")
    told = next((each for each in capabilities.pools if each.pool_id == ask.pool_id), None)
    if told is not None and not told.strict:
        raise Failed(f"pool {ask.pool_id} does not promise equal bytes: {told.strict_refusal}")
    return Header(
        created_ms=created_ms,
        llama_orch_version=capabilities.version,
        pool=_proven_pool(pool, page.devices),
        sampler=ask.sampler,
        request=ask.request(ask.pool_id),
        seeds=ask.seeds,
        rounds=ask.rounds,
    )


def _proven_pool(pool: PoolStatus, devices: Sequence[DeviceView]) -> ProvenPool:
    for replica in pool.replicas:
        if replica.state is not ReplicaState.READY:
            raise Failed(
                f"{replica.replica_id} is {replica.state.value}: every replica of the pool must"
                " serve; see `llama-orch pools health`"
            )
    if not pool.replicas:
        raise Failed(f"pool {pool.pool_id} has no replicas")
    return ProvenPool(
        pool_id=pool.pool_id,
        engine=pool.engine,
        engine_version=_one(pool, "engine_version"),
        model_id=pool.model_id,
        model_digest=_one(pool, "model_digest"),
        ctx=pool.ctx,
        slots=pool.slots,
        replicas=tuple(_proven_replica(replica, devices) for replica in pool.replicas),
    )


def _one(pool: PoolStatus, name: str) -> str:
    """What every replica tells as `name`."""
    told = sorted({str(getattr(replica, name) or "nothing") for replica in pool.replicas})
    if len(told) > 1 or told == ["nothing"]:
        raise Failed(
            f"pool {pool.pool_id} tells as its {name}: {' and '.join(told)}; a proof takes one"
        )
    return told[0]


def _proven_replica(replica: ReplicaView, devices: Sequence[DeviceView]) -> ProvenReplica:
    names = {device.uuid: device.name for device in devices}
    cards = tuple(names.get(uuid, uuid) for uuid in replica.devices)
    return ProvenReplica(replica_id=replica.replica_id, devices=cards or (CPU,))
