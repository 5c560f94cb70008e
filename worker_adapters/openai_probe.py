"""Which of OpenAI's routes a running server has, asked without giving it any work."""

from __future__ import annotations

from contracts.tasks import Workload
from worker_adapters.answers import accepted
from worker_adapters.connection import EngineConnection
from worker_adapters.openai_dialect import answered_error

ROUTES = {
    Workload.COMPLETION: "/v1/completions",
    Workload.CHAT: "/v1/chat/completions",
    Workload.EMBEDDING: "/v1/embeddings",
    Workload.RERANK: "/v1/rerank",
}
UNDERSTOOD = frozenset({200, 400, 422})
"""Statuses of a route that is there and found the body lacking."""
NOT_THERE = frozenset({404, 405, 501})


async def served_routes(engine: EngineConnection) -> frozenset[Workload]:
    """The workloads whose route answers an empty request with more than "no such thing".

    Raises:
        EngineError: it cannot tell, for example because it refuses our key.
    """
    return frozenset([workload for workload in ROUTES if await _has(engine, ROUTES[workload])])


async def _has(engine: EngineConnection, path: str) -> bool:
    answer = await engine.ask("POST", path, b"{}")
    if answer.status in UNDERSTOOD:
        return True
    if answer.status not in NOT_THERE:
        accepted(answer, answered_error)
    return False
