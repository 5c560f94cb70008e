"""The routes of OpenAI's API: which of them a server has, and the answers that are no stream."""

from __future__ import annotations

from contracts.tasks import Workload
from worker_adapters.answers import Shape, accepted, read_json
from worker_adapters.connection import EngineConnection
from worker_adapters.errors import unserved
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
WORK_TIMEOUT_S = 3600.0
"""For an answer that takes work: the caller's clock is the one that matters."""


async def served_routes(engine: EngineConnection) -> frozenset[Workload]:
    """The workloads whose route answers an empty request with more than "no such thing".

    Nothing is generated for it.

    Raises:
        EngineError: it cannot tell, for example because it refuses our key.
    """
    return frozenset([workload for workload in ROUTES if await _has(engine, ROUTES[workload])])


async def work(
    engine: EngineConnection,
    workload: Workload,
    shape: type[Shape],
    body: bytes,
    correlation_id: str,
) -> Shape:
    """The answer of `workload`'s route; EngineRefused where the server has no such route."""
    answer = await engine.ask(
        "POST", ROUTES[workload], body, correlation_id, timeout_s=WORK_TIMEOUT_S
    )
    if answer.status in NOT_THERE:
        raise unserved(workload)
    return read_json(accepted(answer, answered_error), shape)


async def _has(engine: EngineConnection, path: str) -> bool:
    answer = await engine.ask("POST", path, b"{}")
    if answer.status in UNDERSTOOD:
        return True
    if answer.status not in NOT_THERE:
        accepted(answer, answered_error)
    return False
