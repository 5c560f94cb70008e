"""The life of an external replica: observed, never started or stopped."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread

from contracts.config import External
from contracts.pools import FailureReason
from pool_managerd.canary import PROOFS
from pool_managerd.domain.replica_state import Move
from pool_managerd.failure import Failure, LaunchRefused
from pool_managerd.launch_tools import LaunchTools
from pool_managerd.life import Served, engine_failure
from pool_managerd.membership import Membership
from pool_managerd.observed import within_bounds
from pool_managerd.provisioning import external
from pool_managerd.provisioning.launchers import shown
from pool_managerd.readiness import Unfit, serving
from pool_managerd.replica import Endpoint, Replica
from pool_managerd.watching import NEVER_MS, EngineWatch
from worker_adapters.base import EngineClient
from worker_adapters.errors import EngineError, EngineProtocolError
from worker_adapters.registry import new_client

FIRST_ANSWER_S = 60.0
KEY_REFUSED = frozenset({401, 403})


class ExternalLife:
    """A server that somebody else runs, at the address of the configuration."""

    adopts = False

    def __init__(self, replica: Replica, tools: LaunchTools) -> None:
        self._replica = replica
        self._tools = tools
        self._member = Membership(replica, tools.identities, tools.digests, model=None)

    async def live(self, served: Served) -> Failure:
        """Serve once it proves that it works; fail once it cannot be reached any more."""
        try:
            return await self._live(served)
        finally:
            self._member.leave()

    async def mended(self) -> None:
        """Return once the others of its pool serve another engine."""
        await self._member.until_mended()

    async def _live(self, served: Served) -> Failure:
        replica = self._replica
        pool = replica.entry.pool
        provisioning = pool.provisioning
        assert isinstance(provisioning, External)
        try:
            endpoint = await anyio.to_thread.run_sync(external.endpoint, provisioning)
        except LaunchRefused as refused:
            return refused.failure
        replica.launched(endpoint, pid=None, devices=())
        await replica.advance(Move.SPAWNED)
        client = new_client(pool.engine, self._tools.transport, endpoint.base_url, endpoint.api_key)
        client.ask_for(pool.model.id)
        try:
            with anyio.fail_after(FIRST_ANSWER_S):
                introduction = await serving(client, pool.workload)
                seen = within_bounds(introduction.observation)
                replica.observed(seen)
                replica.introduced(shown(introduction.capabilities, pool))
                await self._member.join(seen.engine_version)
        except Unfit as error:
            return error.failure
        except EngineProtocolError as error:
            return _wants_a_key(error, endpoint) or engine_failure(error)
        except EngineError as error:
            return engine_failure(error)
        except TimeoutError:
            message = f"no {PROOFS[pool.workload]} within {FIRST_ANSWER_S:g} s"
            return Failure(FailureReason.UNREACHABLE, message)
        await served()
        lost = await self._watch(client).until_lost()
        if lost.reason is FailureReason.UNREACHABLE:
            message = f"nothing answers at {endpoint.base_url} any more; is it still running?"
            return replace(lost, message=message)
        return lost

    def _watch(self, client: EngineClient) -> EngineWatch:
        """A server of somebody else's is asked for no token while it is merely idle."""
        tools, replica_id = self._tools, self._replica.entry.replica_id
        return EngineWatch(
            self._replica,
            client,
            tools.clock,
            replace(tools.patience, canary_ms=NEVER_MS),
            partial(tools.leasing.work, replica_id),
            lambda: None,
            lambda seen: seen,
        )

    async def end(self, memory_s: float) -> None:
        """Nothing of it is ours."""


def _wants_a_key(error: EngineProtocolError, endpoint: Endpoint) -> Failure | None:
    """In words of the configuration; None: it is not the key."""
    if error.status not in KEY_REFUSED:
        return None
    remedy = (
        "write its key into a file with mode 0600, and the file's path into"
        " provisioning.api_key_file"
        if endpoint.api_key is None
        else "it is not the one in the file that provisioning.api_key_file names"
    )
    message = f"the server at {endpoint.base_url} wants an API key: {remedy} ({error})"
    return Failure(FailureReason.IDENTITY_MISMATCH, message)
