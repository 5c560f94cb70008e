"""One supervisor per replica: the single owner of its state.

    start --> a life --> failure --> end what is left of it --> delay --> start

It alone moves the replica, from one task, so no lock is needed; everybody else
reads.  `stop` does not touch the process either: it says so and cancels the life,
and the supervisor's own task ends what runs.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import structlog

from contracts.pools import FailureReason, ReplicaState
from pool_managerd.clock import Clock
from pool_managerd.domain.replica_state import Move
from pool_managerd.domain.restart import GiveUp, Pause, RestartBudget, Retry
from pool_managerd.failure import Failure
from pool_managerd.life import Life
from pool_managerd.process_group import GroupSurvives
from pool_managerd.replica import Replica

STUCK_RETRY_S = 5.0
STOPPING = frozenset({ReplicaState.STOPPING, ReplicaState.STOPPED})

_log = structlog.get_logger(__name__)


class Supervisor:
    """Keeps one replica serving for as long as it runs.

    Args:
        chance: a uniform random number in [0, 1), for the jitter of delays.
        cut_off: the ids of the tasks that held slots when the life that ended did.
    """

    def __init__(
        self,
        replica: Replica,
        life: Life,
        clock: Clock,
        chance: Callable[[], float],
        cut_off: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self.replica = replica
        self.budget = RestartBudget(replica.entry.pool.restart)
        self._life = life
        self._clock = clock
        self._chance = chance
        self._cut_off = cut_off
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._log = _log.bind(replica_id=replica.entry.replica_id)

    async def run(self) -> None:
        """Keep it serving until `stop`, or until this task is cancelled."""
        try:
            with self._scope:
                await self._keep_serving()
        finally:
            # Bounded by itself: the grace, and what a killed group may take.
            with anyio.CancelScope(shield=True):
                await self._end()
            self._ended.set()

    async def stop(self) -> None:
        """Stop the replica for good; returns once nothing of it runs.

        Safe in every state, also while it starts or waits for its next try.
        """
        if self.replica.state not in STOPPING:
            self.replica.move(Move.STOP)
        self._scope.cancel()
        await self._ended.wait()

    async def _keep_serving(self) -> None:
        while True:
            self.budget.starting()
            await self.replica.advance(Move.START)
            self._log.info("replica.starting")
            failure = await self._life.live(self._served)
            self._note(failure)
            await self._clear()
            delay_ms = await self._settle(failure)
            if delay_ms is None:
                await anyio.sleep_forever()
                return
            await anyio.sleep(delay_ms / 1000)
            self.replica.restarted(failure.reason)

    async def _served(self) -> None:
        await self.replica.advance(Move.SERVES)
        self.budget.serving(self._clock.now_ms())
        self._log.info("replica.serving")

    def _note(self, failure: Failure) -> None:
        self._log.warning("replica.failed", reason=failure.reason, message=failure.message)
        self.replica.failed(failure)
        self.replica.lost()

    async def _settle(self, failure: Failure) -> int | None:
        """Move on from a failure; the delay until the next try, None for never."""
        now, tasks = self._clock.now_ms(), self._cut_off()
        decision = self.budget.failed(failure.reason, now, self._chance(), tasks)
        match decision:
            case Retry(delay_ms):
                await self.replica.advance(Move.FAIL)
                return delay_ms
            case Pause(delay_ms):
                self._log.error("replica.breaker_open", retry_ms=delay_ms)
                await self.replica.advance(Move.GIVE_UP)
                return delay_ms
            case GiveUp():
                self._log.error("replica.given_up", reason=failure.reason)
                await self.replica.advance(Move.GIVE_UP)
                return None

    async def _clear(self) -> None:
        """Return once nothing of the life that ended runs any more, however long it takes.

        Until then no other one may begin, or two would share a card.
        """
        while True:
            try:
                return await self._life.end()
            except GroupSurvives as error:
                self._log.error("replica.stuck", message=str(error))
                self.replica.failed(Failure(FailureReason.NOT_PROGRESSING, str(error)))
                await anyio.sleep(STUCK_RETRY_S)

    async def _end(self) -> None:
        """End what runs; a replica that never began has nothing to move on from."""
        if self.replica.state not in STOPPING:
            self.replica.move(Move.STOP)
        try:
            await self._life.end()
        except GroupSurvives as error:
            self._log.error("replica.stuck", message=str(error))
            return
        self.replica.lost()
        if self.replica.state is ReplicaState.STOPPING:
            self.replica.move(Move.GONE)
