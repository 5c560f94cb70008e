"""The smallest real piece of work of an engine, which proves that it works.

What is asked is what the engine's pool is for: one token, the vector of one word, or
the score of one document.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import aclosing

from contracts.ids import new_uuid
from contracts.pools import WORKLOADS, FailureReason, PoolWorkload
from contracts.tasks import Message, Workload
from pool_managerd.failure import Failure
from worker_adapters.base import EmbeddingRequest, EngineClient, GenerationRequest, RerankRequest

WORD = "The"
PROOFS: dict[PoolWorkload, str] = {
    "generation": "token",
    "embedding": "vector",
    "rerank": "score",
}
"""What is waited for as a proof, in words."""


def workload_missing(wanted: PoolWorkload, served: Set[Workload]) -> Failure | None:
    """Why an engine that serves `served` cannot be in a pool of `wanted`; None: it can."""
    if WORKLOADS[wanted] & served:
        return None
    told = ", ".join(sorted(served)) or "nothing"
    return Failure(
        FailureReason.WORKLOAD_MISSING,
        f"it serves {told}, and its pool is for {wanted}: set the pool's `workload` to what it"
        " serves, or take a model and `engine_args` for it, then restart pool_managerd",
    )


async def prove(
    client: EngineClient, workload: PoolWorkload, served: Set[Workload], slot: int | None = None
) -> None:
    """Have the smallest piece of work done, as any task would; raises `EngineError`.

    Args:
        served: what the engine says that it serves.
        slot: where a token shall be generated; None lets the engine choose.
    """
    if workload == "embedding":
        await client.embed(EmbeddingRequest(inputs=(WORD,), correlation_id=new_uuid()))
    elif workload == "rerank":
        request = RerankRequest(query=WORD, documents=(WORD,), correlation_id=new_uuid())
        await client.rerank(request)
    else:
        await _generate_one_token(client, served, slot)


async def _generate_one_token(
    client: EngineClient, served: Set[Workload], slot: int | None
) -> None:
    """It wishes for nothing, not even for the likeliest token: some know no temperature."""
    by_prompt = Workload.COMPLETION in served
    request = GenerationRequest(
        prompt=WORD if by_prompt else None,
        messages=None if by_prompt else (Message(role="user", content=WORD),),
        max_tokens=1,
        seed=0,
        slot=slot,
        correlation_id=new_uuid(),
    )
    async with aclosing(client.stream(request)) as events:
        async for _ in events:
            pass
