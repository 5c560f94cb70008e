"""Run every seed on every replica, over the public API.

Nobody can name the replica of a task: placement takes one with a free slot.  So as
many tasks are kept running as there are slots, which leaves to each new one the slot
that was given back last, and each asks for a seed that the replica still lacks.  A
task that lands elsewhere is evidence all the same; the tries are bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext

import anyio

from contracts.proofs import Control, Header, Round, Run
from contracts.tasks import TaskRequest
from llama_orch.api import Api
from llama_orch.determinism.one_run import Done, TryAgain, identity, run_once
from llama_orch.failures import Failed

TRIES_OF_EACH = 8
"""Tries in a round, for each seed on each replica."""


class Missing:
    """The seeds that each replica still lacks in a round."""

    def __init__(self, replicas: Iterable[str], seeds: Iterable[int]) -> None:
        wanted = tuple(seeds)
        self._of = {replica: dict.fromkeys(wanted) for replica in replicas}
        self._running: Counter[int] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def take(self, last: str | None) -> int | None:
        """A seed to run next, by one whose newest task was on `last`; None: nothing is missing.

        One that this replica lacks, if any; else one of the replica that lacks most.
        Of those, one that is asked for least at this moment.
        """
        if not len(self):
            return None
        lacking = self._of.get(last or "") or max(self._of.values(), key=len)
        seed = min(lacking, key=lambda each: self._running[each])
        self._running[seed] += 1
        return seed

    def give_back(self, seed: int, replica: str | None) -> bool:
        """`seed` ended on `replica`, or nowhere; whether that was missing."""
        self._running[seed] -= 1
        lacking = self._of.get(replica or "", {})
        found = seed in lacking
        lacking.pop(seed, None)
        return found

    def words(self) -> str:
        """What is missing, by replica."""
        return ", ".join(f"{len(seeds)} on {name}" for name, seeds in self._of.items() if seeds)


class Collector:
    """Makes the runs of one proof.

    `advance` is called at each run that was missing, `keep` with every run.
    """

    def __init__(
        self, header: Header, keep: Callable[[Run], None], advance: Callable[[], None]
    ) -> None:
        self._header = header
        self._keep = keep
        self._advance = advance

    async def round(
        self,
        api: Api,
        name: Round,
        load: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        """Run every seed on every replica once at least, while `load` lasts.

        Raises:
            Failed: a replica never got its runs, or a run ended badly.
        """
        pool = self._header.pool
        replicas = [replica.replica_id for replica in pool.replicas]
        missing = Missing(replicas, self._header.seeds)
        tries = iter(range(TRIES_OF_EACH * len(missing)))
        async with load or nullcontext(), anyio.create_task_group() as group:
            for _ in range(len(replicas) * pool.slots):
                group.start_soon(self._work, api, name, missing, tries)

    async def _work(self, api: Api, name: Round, missing: Missing, tries: Iterator[int]) -> None:
        last: str | None = None
        reason = ""
        while (seed := missing.take(last)) is not None:
            if next(tries, None) is None:
                raise Failed(f"gave up in round {name.value}: missing {missing.words()}; {reason}")
            try:
                done = await run_once(api, self._header.request, seed)
            except TryAgain as passing:
                missing.give_back(seed, None)
                reason = str(passing)
                await anyio.sleep(passing.pause_s)
                continue
            last = done.started.replica_id
            self._keep(_run(name, seed, done))
            if missing.give_back(seed, last):
                self._advance()


async def controls(
    api: Api, request: TaskRequest, seeds: Iterable[int], advance: Callable[[], None]
) -> list[Control]:
    """`request`, of a pool of another model, with each seed once."""
    found = []
    for seed in seeds:
        done = await _patiently(api, request, seed)
        found.append(
            Control(
                seed=seed,
                task_id=done.task_id,
                output=done.output,
                **identity(done.started),
            )
        )
        advance()
    return found


async def _patiently(api: Api, request: TaskRequest, seed: int) -> Done:
    reason = ""
    for _ in range(TRIES_OF_EACH):
        try:
            return await run_once(api, request, seed)
        except TryAgain as passing:
            reason = str(passing)
            await anyio.sleep(passing.pause_s)
    raise Failed(f"gave up on a control after {TRIES_OF_EACH} tries: {reason}")


def _run(name: Round, seed: int, done: Done) -> Run:
    return Run(
        round=name,
        seed=seed,
        task_id=done.task_id,
        first_token_ms=done.end.first_token_ms,
        decode_ms=done.end.decode_ms,
        output=done.output,
        **identity(done.started),
    )
