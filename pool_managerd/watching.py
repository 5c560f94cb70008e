"""Watching an engine that serves, until it does not any more.

What is asked seldom: llama.cpp looks for a client that hung up only after a second
in which no answer passed, and each poll is an answer.  That an engine is slow to
answer is no failure, a long prefill does that; that nobody takes connections any
more is one, the third time in a row.

Whether it moves on is judged by `domain.progress`.  A replica under suspicion gets
no new work, and one token decides: it takes the suspicion away, and its absence
ends the engine.  No probe that merely passes does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import anyio

from contracts.config import Config
from contracts.ids import new_uuid
from contracts.pools import FailureReason
from pool_managerd.clock import Clock
from pool_managerd.domain.leases import Work
from pool_managerd.domain.progress import Progress, Verdict
from pool_managerd.failure import Failure
from pool_managerd.replica import Replica
from worker_adapters.base import EngineClient, GenerationRequest, Observation
from worker_adapters.errors import EngineError, EngineUnreachable

OBSERVE_S = 3.0
OBSERVE_MIN_S = 1.2
ANSWER_S = 5.0
PROBE_S = 30.0
MISSED_MAX = 3
CANARY_PROMPT = "The"
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


async def generate_one_token(client: EngineClient, slot: int | None = None) -> None:
    """Have one token generated, as any task would; raises `EngineError`.

    It wishes for nothing, not even for the likeliest token: some engines know no temperature.
    """
    request = GenerationRequest(
        prompt=CANARY_PROMPT,
        max_tokens=1,
        seed=0,
        slot=slot,
        correlation_id=new_uuid(),
    )
    async with aclosing(client.stream(request)) as events:
        async for _ in events:
            pass


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
        self._missed = 0
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
            suspicion = self._replica.suspicion or await self._judged(busy)
            if suspicion is not None and not await self._cleared(suspicion):
                return Failure(FailureReason.NOT_PROGRESSING, f"{suspicion}; no token came")
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
        self._replica.observed(self._named(seen))
        self._counts = seen.work_done is not None
        self._progress.counted(seen.work_done, self._clock.now_ms())
        return seen.slots_busy or 0

    async def _judged(self, busy: int) -> str | None:
        """What makes it suspect, if anything does; an idle one is asked for a token first."""
        work, now = self._work(), self._clock.now_ms()
        if work.progressed_at is not None:
            self._progress.moved(work.progressed_at)
        self._progress.loaded(max(busy, work.leases), now)
        match self._progress.verdict(now):
            case Verdict.STALLED if self._would_be_told(work, now):
                return "it has work in flight that does not move"
            case Verdict.CANARY_DUE if not await self._token_comes():
                return "it generated no token when it was asked for one"
        return None

    def _would_be_told(self, work: Work, now: int) -> bool:
        """Whether silence means anything: an orchestratord that stands still tells nothing,
        and the engine may count no work."""
        heard = work.told_at is not None and now - work.told_at <= self._patience.stall_ms
        return heard or self._counts

    async def _cleared(self, suspicion: str) -> bool:
        """Whether a token came of an engine that gets no new work until it does."""
        await self._replica.stalled(suspicion)
        if not await self._token_comes():
            return False
        await self._replica.proved()
        return True

    async def _token_comes(self) -> bool:
        try:
            with anyio.fail_after(self._patience.canary_s):
                await generate_one_token(self._client, self._coldest_slot())
        except (EngineError, TimeoutError):
            return False
        self._progress.moved(self._clock.now_ms())
        return True

    async def _prove_again(self) -> None:
        """After a miss only a new token counts as an answer."""
        try:
            with anyio.fail_after(PROBE_S):
                seen = await self._client.observe()
                await generate_one_token(self._client, self._coldest_slot())
        except EngineUnreachable as error:
            self._missed += 1
            await self._replica.unanswered(str(error))
        except (EngineError, TimeoutError):
            return
        else:
            self._missed = 0
            self._replica.observed(self._named(seen))
            self._progress.moved(self._clock.now_ms())
            await self._replica.proved()
