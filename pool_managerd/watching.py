"""Watching an engine that serves, until it does not any more.

What is asked seldom: llama.cpp looks for a client that hung up only after a second
in which no answer passed, and each poll is an answer.  That an engine is slow to
answer is no failure, a long prefill does that; that nobody takes connections any
more is one, the third time in a row.

Whether it moves on is judged by `domain.progress`.  A replica under suspicion gets
no new work, and one token decides (of an engine that generates none: one piece of its
own work): it takes the suspicion away, and its absence ends the engine.  No probe
that merely passes does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from contracts.config import Config
from contracts.pools import FailureReason
from pool_managerd.canary import PROOFS, prove
from pool_managerd.clock import Clock
from pool_managerd.domain.leases import Work
from pool_managerd.domain.progress import Progress, Verdict
from pool_managerd.failure import Failure
from pool_managerd.observed import within_bounds
from pool_managerd.replica import Replica
from worker_adapters.base import EngineClient, Observation
from worker_adapters.errors import EngineError, EngineUnreachable

OBSERVE_S = 3.0
OBSERVE_MIN_S = 1.2
ANSWER_S = 5.0
PROBE_S = 30.0
MISSED_MAX = 3
NEVER_MS = 2**62


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an engine may show nothing, ms."""

    stall_ms: int
    first_token_ms: int
    canary_ms: int

    @classmethod
    def of(cls, config: Config) -> Patience:
        """As the configuration says."""
        stall_ms = config.supervision.stall_ms or config.timeouts.idle_token_ms
        return cls(stall_ms, config.timeouts.first_token_ms, config.supervision.canary_ms)

    @property
    def interval_s(self) -> float:
        """Between two looks: three within the shortest of the bounds."""
        shortest_ms = min(self.stall_ms, self.canary_ms)
        return min(OBSERVE_S, max(OBSERVE_MIN_S, shortest_ms / 3000))

    @property
    def canary_s(self) -> float:
        """How long one token may take that is asked for as a proof."""
        return min(PROBE_S, max(1.0, self.stall_ms / 1000))


class EngineWatch:
    """The watch over one life of a replica.

    Args:
        work: what runs on it under leases.
        coldest_slot: the slot whose cache is worth least, for the canary.
        named: adds to an observation what only the launcher knows.
    """

    def __init__(
        self,
        replica: Replica,
        client: EngineClient,
        clock: Clock,
        patience: Patience,
        work: Callable[[], Work],
        coldest_slot: Callable[[], int | None],
        named: Callable[[Observation], Observation],
    ) -> None:
        self._replica = replica
        self._client = client
        self._clock = clock
        self._patience = patience
        self._work = work
        self._coldest_slot = coldest_slot
        self._named = named
        self._proof = PROOFS[replica.entry.pool.workload]
        self._missed = 0
        self._another: str | None = None
        self._counts = False
        """Whether the engine tells of its work."""
        self._progress = Progress(
            clock.now_ms(), patience.stall_ms, patience.first_token_ms, patience.canary_ms
        )

    async def until_lost(self) -> Failure:
        """Why it does not serve any more, though its process may live."""
        while self._missed < MISSED_MAX:
            await self._pause()
            if self._missed:
                await self._prove_again()
                continue
            busy = await self._look()
            if self._another is not None:
                return Failure(FailureReason.IDENTITY_MISMATCH, self._another)
            suspicion = self._replica.suspicion or await self._judged(busy)
            if suspicion is not None and not await self._cleared(suspicion):
                return Failure(FailureReason.NOT_PROGRESSING, f"{suspicion}; no {self._proof} came")
        return Failure(FailureReason.UNREACHABLE, "it takes no connections any more")

    async def _pause(self) -> None:
        interval_s = self._patience.interval_s
        with anyio.move_on_after(interval_s / 3 if self._missed else interval_s):
            await self._replica.until_suspected()

    async def _look(self) -> int:
        """Ask what it does; returns how many requests it says are under way."""
        try:
            with anyio.fail_after(ANSWER_S):
                seen = await self._client.observe()
        except EngineUnreachable as error:
            self._missed += 1
            await self._replica.unanswered(str(error))
            return 0
        except (EngineError, TimeoutError):
            return 0
        self._observed(seen)
        self._counts = seen.work_done is not None
        self._progress.counted(seen.work_done, self._clock.now_ms())
        return seen.slots_busy or 0

    def _observed(self, seen: Observation) -> None:
        """A server behind an address, or a wrapper, may start another engine unseen."""
        named, before = within_bounds(self._named(seen)), self._replica.observation
        versions = (named.engine_version, before.engine_version if before else None)
        if None not in versions and versions[0] != versions[1]:
            self._another = f"its engine was {versions[1]}, and another one answers: {versions[0]}"
            return
        self._replica.observed(named)

    async def _judged(self, busy: int) -> str | None:
        """What makes it suspect, if anything does; an idle one is asked for a token first."""
        work, now = self._work(), self._clock.now_ms()
        if work.progressed_at is not None:
            self._progress.moved(work.progressed_at)
        self._progress.loaded(max(busy, work.leases), now)
        match self._progress.verdict(now):
            case Verdict.STALLED if self._would_be_told(work, now):
                return "it has work in flight that does not move"
            case Verdict.CANARY_DUE if not await self._proof_comes():
                return f"it gave no {self._proof} when it was asked for one"
        return None

    def _would_be_told(self, work: Work, now: int) -> bool:
        """Whether silence means anything: an orchestratord that stands still tells nothing,
        and the engine may count no work."""
        heard = work.told_at is not None and now - work.told_at <= self._patience.stall_ms
        return heard or self._counts

    async def _cleared(self, suspicion: str) -> bool:
        """Whether a token came of an engine that gets no new work until it does."""
        await self._replica.stalled(suspicion)
        if not await self._proof_comes():
            return False
        await self._replica.proved()
        return True

    async def _proof_comes(self) -> bool:
        try:
            with anyio.fail_after(self._patience.canary_s):
                await self._prove()
        except (EngineError, TimeoutError):
            return False
        self._progress.moved(self._clock.now_ms())
        return True

    async def _prove(self) -> None:
        capabilities = self._replica.capabilities
        served = frozenset() if capabilities is None else frozenset(capabilities.workloads)
        workload = self._replica.entry.pool.workload
        await prove(self._client, workload, served, self._coldest_slot())

    async def _prove_again(self) -> None:
        """After a miss only a new token counts as an answer."""
        try:
            with anyio.fail_after(PROBE_S):
                seen = await self._client.observe()
                await self._prove()
        except EngineUnreachable as error:
            self._missed += 1
            await self._replica.unanswered(str(error))
        except (EngineError, TimeoutError):
            return
        else:
            self._missed = 0
            self._observed(seen)
            self._progress.moved(self._clock.now_ms())
            await self._replica.proved()
