"""One supervisor per replica: the single owner of its state.

    start --> a life --> failure --> end what is left of it --> delay --> start

It alone moves the replica, so no lock is needed; everybody else reads or asks.
`stop` does not touch the process either: it says so and cancels the life, and the
supervisor's own task ends what runs.

A supervisor on trial gives up at the first failure: whoever tries another model
would rather have the old one back than wait for a tenth attempt.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
import anyio.to_thread
import structlog

from contracts.pools import FailureReason, ReplicaState
from pool_managerd.clock import Clock
from pool_managerd.domain.replica_state import Move
from pool_managerd.domain.restart import Breaker, GiveUp, Pause, RestartBudget, Retry
from pool_managerd.failure import Failure
from pool_managerd.life import Life
from pool_managerd.process_group import GroupSurvives
from pool_managerd.replica import Replica
from pool_managerd.restart_records import RestartRecord, RestartRecords

STUCK_RETRY_S = 5.0
MEMORY_BACK_S, MEMORY_BACK_AT_STOP_S = 60.0, 8.0
"""What a driver gets to free the memory of a dead process, before the next one and at a stop."""
STOPPING = frozenset({ReplicaState.STOPPING, ReplicaState.STOPPED})
RESTING = frozenset({ReplicaState.BACKOFF, ReplicaState.FAILED})

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
        *,
        records: RestartRecords | None = None,
        on_trial: bool = False,
    ) -> None:
        self.replica = replica
        self.budget = RestartBudget(replica.entry.pool.restart)
        self._life = life
        self._clock = clock
        self._chance = chance
        self._cut_off = cut_off
        self.on_trial = on_trial
        self._records = records
        self._scope = anyio.CancelScope()
        self._retry = anyio.Event()
        self._settled = anyio.Event()
        self._stopped = False
        self._failed = anyio.Event()
        self._ended = anyio.Event()
        self._log = _log.bind(replica_id=replica.entry.replica_id)

    async def run(self) -> None:
        """Keep it serving until `stop`.

        Where this task is canceled otherwise the daemon is going down unasked, or was
        told to leave its engines: they live on, for the next start to take back.
        """
        try:
            with self._scope:
                await self._keep_serving()
        finally:
            if self._stopped:
                # Bounded by itself: the grace, and what a killed group may take.
                with anyio.CancelScope(shield=True):
                    await self._end()
            self._ended.set()

    async def stop(self) -> None:
        """Stop the replica for good; returns once nothing of it runs.

        Safe in every state, also while it starts or waits for its next try.
        """
        self._stopped = True
        if self.replica.state not in STOPPING:
            self.replica.move(Move.STOP)
        self._scope.cancel()
        await self._ended.wait()

    def retry(self) -> None:
        """Try again now, whatever failed before: an operator says that it is mended."""
        if self.replica.state in RESTING:
            self.budget.reset()
            self._retry.set()

    async def settled(self) -> None:
        """Return once it serves, or has failed for the first time."""
        await self._settled.wait()

    async def failed(self) -> None:
        """Return once it has failed for the first time, whatever was before."""
        await self._failed.wait()

    async def _keep_serving(self) -> None:
        await self._wait_as_before()
        while True:
            self.budget.starting()
            await self.replica.advance(Move.ADOPT if self._life.adopts else Move.START)
            self._log.info("replica.starting")
            failure = await self._life.live(self._served)
            self._note(failure)
            await self._clear()
            delay_ms = await self._settle(failure)
            self._settled.set()
            await self._keep_record()
            await self._rest(delay_ms)
            self.replica.restarted(failure.reason)

    async def _wait_as_before(self) -> None:
        """Go on where an earlier life of the daemon was: it forgives no failure."""
        entry = self.replica.entry
        if self._records is None or self.on_trial:
            return
        record = await anyio.to_thread.run_sync(
            self._records.read, entry.replica_id, entry.fingerprint
        )
        if record is None:
            return
        self.replica.restarts.update(record.restarts)
        now, unix_now = self._clock.now_ms(), self._clock.unix_ms()
        left_ms = self.budget.restore(record.state, now, unix_now)
        if left_ms > 0 and not self._life.adopts:
            await self.replica.advance(Move.START)
            is_open = self.budget.breaker is Breaker.OPEN
            await self.replica.advance(Move.GIVE_UP if is_open else Move.FAIL)
            self._settled.set()
            await self._rest(left_ms)

    async def _keep_record(self) -> None:
        entry, now = self.replica.entry, self._clock.now_ms()
        if self._records is None or self.on_trial:
            return
        state = self.budget.state(now, self._clock.unix_ms())
        record = RestartRecord(entry.fingerprint, state, dict(self.replica.restarts))
        await anyio.to_thread.run_sync(self._records.write, entry.replica_id, record)

    async def _rest(self, delay_ms: int | None) -> None:
        """Wait for the next try; None: until somebody asks for one, which forgets what failed,
        or what failed is mended."""
        self._retry = anyio.Event()
        async with anyio.create_task_group() as group:
            if delay_ms is None and not self.on_trial:
                group.start_soon(self._retry_when_mended)
            with anyio.move_on_after(math.inf if delay_ms is None else delay_ms / 1000):
                await self._retry.wait()
            group.cancel_scope.cancel()
        if self._retry.is_set():
            await self._keep_record()

    async def _retry_when_mended(self) -> None:
        await self._life.mended()
        self.retry()

    async def _served(self) -> None:
        await self.replica.serves()
        self._settled.set()
        self.budget.serving(self._clock.now_ms())
        await self._keep_record()
        self._log.info("replica.serving")

    def _note(self, failure: Failure) -> None:
        self._log.warning("replica.failed", reason=failure.reason, message=failure.message)
        self.replica.failed(failure)
        self.replica.lost()
        self._failed.set()

    async def _settle(self, failure: Failure) -> int | None:
        """Move on from a failure; the delay until the next try, None for never."""
        now, tasks = self._clock.now_ms(), self._cut_off()
        if self.on_trial:
            await self.replica.advance(Move.GIVE_UP)
            return None
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
                return await self._life.end(MEMORY_BACK_S)
            except GroupSurvives as error:
                self._log.error("replica.stuck", message=str(error))
                self.replica.failed(Failure(FailureReason.NOT_PROGRESSING, str(error)))
                await anyio.sleep(STUCK_RETRY_S)

    async def _end(self) -> None:
        """End what runs; a replica that never began has nothing to move on from."""
        if self.replica.state not in STOPPING:
            self.replica.move(Move.STOP)
        try:
            await self._life.end(MEMORY_BACK_AT_STOP_S)
        except GroupSurvives as error:
            self._log.error("replica.stuck", message=str(error))
            return
        self.replica.lost()
        if self.replica.state is ReplicaState.STOPPING:
            self.replica.move(Move.GONE)
