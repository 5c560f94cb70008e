"""The life of an external replica: observed, never started or stopped."""

from __future__ import annotations

import anyio
import anyio.to_thread

from contracts.config import External
from contracts.pools import FailureReason
from pool_managerd.domain.replica_state import Move
from pool_managerd.failure import Failure, LaunchRefused
from pool_managerd.life import Served, engine_failure
from pool_managerd.provisioning import external
from pool_managerd.readiness import serving, until_lost
from pool_managerd.replica import Replica
from worker_adapters.errors import EngineError
from worker_adapters.registry import new_client
from worker_adapters.transport import EngineTransport

FIRST_ANSWER_S = 60.0


class ExternalLife:
    """A server that somebody else runs, at the address of the configuration."""

    def __init__(self, replica: Replica, transport: EngineTransport) -> None:
        self._replica = replica
        self._transport = transport

    async def live(self, served: Served) -> Failure:
        """Serve once it generates a token; fail once it cannot be reached any more."""
        replica = self._replica
        provisioning = replica.entry.pool.provisioning
        assert isinstance(provisioning, External)
        try:
            endpoint = await anyio.to_thread.run_sync(external.endpoint, provisioning)
        except LaunchRefused as refused:
            return refused.failure
        replica.launched(endpoint, pid=None, devices=())
        await replica.advance(Move.SPAWNED)
        client = new_client(
            replica.entry.pool.engine, self._transport, endpoint.base_url, endpoint.api_key
        )
        try:
            with anyio.fail_after(FIRST_ANSWER_S):
                replica.observed(await serving(client))
        except EngineError as error:
            return engine_failure(error)
        except TimeoutError:
            return Failure(FailureReason.UNREACHABLE, f"no token within {FIRST_ANSWER_S:g} s")
        await served()
        await until_lost(client, replica.answered, replica.unanswered)
        return Failure(
            FailureReason.UNREACHABLE,
            f"nothing answers at {endpoint.base_url} any more; is it still running?",
        )

    async def end(self) -> None:
        """Nothing of it is ours."""
