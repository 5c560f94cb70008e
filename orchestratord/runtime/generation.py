"""A task in the terms of an engine."""

from __future__ import annotations

from contracts.engines import Feature
from contracts.tasks import Workload
from orchestratord.domain.abilities import output_bound
from orchestratord.domain.prompt_size import estimate
from orchestratord.stores.tasks import NewTask
from worker_adapters.base import EmbeddingRequest, GenerationRequest, RerankRequest


def generation_request(
    task: NewTask, *, slot: int | None, features: frozenset[Feature] | None
) -> GenerationRequest:
    """What an engine is asked for: every field chosen here, none passed through.

    A strict task reads its whole prompt: what a cache holds was computed in other
    batches, and need not be the same to the last bit.
    """
    request = task.request
    sampling = task.sampling.for_engine(features)
    cold = request.kv_hint == "cold" or request.determinism == "strict"
    return GenerationRequest(
        prompt=request.prompt,
        messages=request.messages,
        max_tokens=output_bound(request),
        seed=task.seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        stop=request.stop or (),
        json_schema=request.json_schema,
        grammar=request.grammar,
        cache_prompt=not cold,
        slot=slot,
        correlation_id=task.correlation_id,
    )


def answer_request(task: NewTask) -> EmbeddingRequest | RerankRequest:
    """The same of a task that is answered at once."""
    inputs = task.request.inputs
    assert inputs is not None
    if task.request.workload is Workload.EMBEDDING:
        return EmbeddingRequest(inputs=inputs, correlation_id=task.correlation_id)
    return RerankRequest(query=inputs[0], documents=inputs[1:], correlation_id=task.correlation_id)


def billable(task: NewTask, tokens: int, ctx: int) -> int:
    """Prompt tokens as the engine counted them, as far as they can be."""
    if task.request.inputs is None:
        return min(tokens, ctx)
    return min(tokens, estimate(task.request).most)
