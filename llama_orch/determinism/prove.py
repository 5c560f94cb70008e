"""Make a proof against a running instance, over its public API."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.proofs import Control, Header, Round, Run
from llama_orch.api import Api
from llama_orch.connection import Connection
from llama_orch.determinism.collector import Collector, controls
from llama_orch.determinism.judge import Judge
from llama_orch.determinism.load import Load
from llama_orch.determinism.proof_file import Evidence, write_proof
from llama_orch.determinism.sampler import shipped_samplers
from llama_orch.determinism.subject import Ask, header_of
from llama_orch.determinism.verify import verify_and_report
from llama_orch.failures import Failed
from llama_orch.output import Output

CONTROL_SEEDS = 8
"""Seeds that are run on the pool of another model."""


@dataclass(frozen=True)
class Wanted:
    """What the command was asked for."""

    ask: Ask
    other_pool: str | None
    """A pool of another model, whose outputs must differ."""
    out: Path | None


async def prove(connection: Connection, output: Output, wanted: Wanted) -> int:
    """Collect, write, and verify what was written; 0 where it proves equal bytes.

    Raises:
        Failed: it does not, or could not be collected.
        CommandFailure: as `Api`.
    """
    async with Api(connection) as api:
        header = await header_of(api, wanted.ask, time.time_ns() // 1_000_000)
        path = wanted.out or Path(f"proof-{wanted.ask.pool_id}-{header.created_ms}.jsonl")
        evidence: list[Evidence] = await _collect(api, header, output, wanted.other_pool)
    try:
        await anyio.to_thread.run_sync(write_judged, path, header, evidence)
    except OSError as error:
        raise Failed(f"{path}: cannot be written: {error.strerror}") from None
    output.note(f"written to {path}")
    return verify_and_report(path, output)


def write_judged(path: Path, header: Header, evidence: list[Evidence]) -> None:
    """Write a proof with the verdict that its evidence comes to."""
    judge = Judge(header, shipped_samplers())
    for record in evidence:
        judge.add(record)
    write_proof(path, header, evidence, judge.judgement().verdict)


async def _collect(
    api: Api, header: Header, output: Output, other_pool: str | None
) -> list[Evidence]:
    pool, runs = header.pool, list[Run]()
    pairs = len(header.seeds) * len(pool.replicas)
    seeds = header.seeds[: CONTROL_SEEDS if other_pool else 0]
    found: list[Control] = []
    with _progress(output, len(header.rounds) * pairs + len(seeds)) as bar:
        collector = Collector(header, runs.append, bar.advance)
        for name in header.rounds:
            bar.says(f"{name.value}: {pairs} runs")
            load = None
            if name is Round.LOADED:
                slots = len(pool.replicas) * pool.slots
                load = Load(api, pool.pool_id, str(header.request.prompt), slots).running()
            await collector.round(api, name, load)
        if other_pool is not None:
            bar.says(f"control: {len(seeds)} runs in pool {other_pool}")
            request = header.request.model_copy(update={"pool_id": other_pool})
            found = await controls(api, request, seeds, bar.advance)
    return [*runs, *found]


class _Bar:
    """How far the runs have come: a bar on a terminal, a line for each round elsewhere."""

    def __init__(self, output: Output, progress: Progress | None, total: int) -> None:
        self._output = output
        self._progress = progress
        self._task = None if progress is None else progress.add_task("", total=total)

    def says(self, words: str) -> None:
        if self._progress is None or self._task is None:
            self._output.note(words)
        else:
            self._progress.update(self._task, description=words)

    def advance(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)


@contextmanager
def _progress(output: Output, total: int) -> Generator[_Bar, None, None]:
    if not output.notes.is_terminal:
        yield _Bar(output, None, total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        *(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=output.notes, transient=True) as progress:
        yield _Bar(output, progress, total)
