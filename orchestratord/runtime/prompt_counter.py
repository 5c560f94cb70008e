"""Counting a prompt with the tokenizer of the engine that will read it."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import structlog

from contracts.pools import Endpoint, ReplicaState
from contracts.tasks import TaskRequest
from orchestratord.clients.pools import LeaseRefused, PoolManagerAway, PoolsClient
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.prompt_size import PromptSize
from orchestratord.runtime.pool_view import PoolsView
from worker_adapters.base import GenerationRequest
from worker_adapters.errors import EngineError
from worker_adapters.registry import Engine
from worker_adapters.transport import EngineTransport

log = structlog.get_logger()

COUNT_DEADLINE_S = 2.0


class PromptCounter:
    """Asks any ready replica of a pool; its address and key are kept while its launch lasts."""

    def __init__(
        self,
        pools: PoolsClient,
        view: PoolsView,
        engines: Mapping[str, Engine],
        transport: EngineTransport,
    ) -> None:
        self._pools = pools
        self._view = view
        self._engines = engines
        self._transport = transport
        self._endpoints: dict[str, tuple[str | None, Endpoint]] = {}

    async def count(
        self, request: TaskRequest, spec: PoolSpec, correlation_id: str
    ) -> PromptSize | None:
        """The exact size of a request's prompt; None where nobody could be asked in time."""
        try:
            with anyio.fail_after(COUNT_DEADLINE_S):
                endpoint = await self._endpoint(spec.pool_id)
                if endpoint is None:
                    return None
                client = self._engines[spec.engine].client(
                    self._transport, endpoint.base_url, endpoint.api_key
                )
                if request.inputs is None:
                    return PromptSize.counted(
                        await client.count_prompt(_to_count(request, correlation_id))
                    )
                texts = (_text(text, correlation_id) for text in request.inputs)
                counts = [await client.count_prompt(text) for text in texts]
                return PromptSize.counted_inputs(request.workload, counts)
        except (EngineError, LeaseRefused, PoolManagerAway, TimeoutError) as error:
            log.info("prompt_not_counted", pool_id=spec.pool_id, reason=str(error) or "timed out")
            return None

    async def _endpoint(self, pool_id: str) -> Endpoint | None:
        view = self._view.pools.get(pool_id)
        for replica in view.replicas if view else ():
            if replica.state is not ReplicaState.READY:
                continue
            launch = f"{replica.pid} {replica.base_url}"
            known = self._endpoints.get(replica.replica_id)
            if known is None or known[0] != launch:
                known = (launch, await self._pools.endpoint(replica.replica_id))
                self._endpoints[replica.replica_id] = known
                self._forget_gone()
            return known[1]
        return None

    def _forget_gone(self) -> None:
        """Each reload brings a replica of another name."""
        there = {r: e for r, e in self._endpoints.items() if self._view.replica(r) is not None}
        self._endpoints = there


def _to_count(request: TaskRequest, correlation_id: str) -> GenerationRequest:
    """What counts of a generation: its prompt alone."""
    return GenerationRequest(
        prompt=request.prompt,
        messages=request.messages,
        max_tokens=1,
        seed=0,
        correlation_id=correlation_id,
    )


def _text(text: str, correlation_id: str) -> GenerationRequest:
    return GenerationRequest(prompt=text, max_tokens=1, seed=0, correlation_id=correlation_id)
