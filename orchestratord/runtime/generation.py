"""A task in the terms of an engine."""

from __future__ import annotations

from contracts.tasks import TaskRequest
from worker_adapters.base import GenerationRequest


def generation_request(
    request: TaskRequest, *, seed: int, slot: int | None, correlation_id: str
) -> GenerationRequest:
    """What an engine is asked for: every field chosen here, none passed through."""
    assert request.max_tokens is not None
    return GenerationRequest(
        prompt=request.prompt,
        messages=request.messages,
        max_tokens=request.max_tokens,
        seed=seed,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=request.stop or (),
        cache_prompt=request.kv_hint != "cold",
        slot=slot,
        correlation_id=correlation_id,
    )
