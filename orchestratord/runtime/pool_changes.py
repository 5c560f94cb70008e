"""What an operator asks of a pool: drain, reload, resume.

pool_managerd does it.  What it answers holds here before the answer goes on, so
that nothing is admitted to a draining pool once somebody was told that it drains.
"""

from __future__ import annotations

from collections.abc import Awaitable

from contracts.pools import DrainRequest, PoolChange, ReloadRequest
from orchestratord.clients.pools import PoolManagerAway, PoolsClient
from orchestratord.errors import PoolUnavailable
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.pool_view import PoolsView


class PoolChanges:
    """Passes changes on, and what became of them to the dispatcher."""

    def __init__(self, client: PoolsClient, pools: PoolsView, dispatcher: Dispatcher) -> None:
        self._client = client
        self._pools = pools
        self._dispatcher = dispatcher

    async def drain(self, pool_id: str, wanted: DrainRequest, correlation_id: str) -> PoolChange:
        """Admit nothing more to a pool; what runs has until the deadline.

        Raises:
            Refusal: pool_managerd's own, or POOL_UNAVAILABLE where it is away.
        """
        return await self._made(pool_id, self._client.drain(pool_id, wanted, correlation_id))

    async def reload(self, pool_id: str, wanted: ReloadRequest, correlation_id: str) -> PoolChange:
        """Serve another model.  Raises as `drain`."""
        return await self._made(pool_id, self._client.reload(pool_id, wanted, correlation_id))

    async def resume(self, pool_id: str, correlation_id: str) -> PoolChange:
        """Admit tasks again.  Raises as `drain`."""
        return await self._made(pool_id, self._client.resume(pool_id, correlation_id))

    async def _made(self, pool_id: str, call: Awaitable[PoolChange]) -> PoolChange:
        try:
            change = await call
        except PoolManagerAway as error:
            raise _away(pool_id, str(error)) from error
        if pool_id not in self._pools.pools:
            raise _away(pool_id, "it has not told of this pool yet")
        self._dispatcher.note(change)
        return change


def _away(pool_id: str, why: str) -> PoolUnavailable:
    return PoolUnavailable(
        pool_id,
        f"pool_managerd cannot be asked: {why}; ask again when it is back, which changes"
        " nothing where this was heard",
    )
