"""How far the predicted start of a task is from the real one, under a load of mixed lengths."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from test_harness.bench.processes import BenchFailed
from test_harness.bench.replayed_load import MAX_TOKENS, Pace, Wait, jobs_of, play
from test_harness.bench.report import Answer, Figure
from test_harness.stack import Stack, running_stack
from test_harness.supervised import fake_command

TASKS = 200
REPLICAS = 2
PACE = Pace(token_ms=2.5, prefill_ms_per_token=0.25, slots=REPLICAS)
LOAD = 0.9
WAITED_MS = 200
"""Shorter waits are left out: a share of next to nothing says nothing."""
KINDS = {"no guess": False, "guess": True}
"""Whether clients send `expected_tokens`: what will come, give or take a fifth."""


def measure(root: Path, rounds: int) -> Answer:
    """Replay one load on new daemons without guesses of the clients, and with them."""
    return compare(root, rounds, TASKS)


def compare(root: Path, rounds: int, tasks: int) -> Answer:
    """The same with so many tasks; each round has another seed."""
    figures: list[Figure] = []
    for kind, guesses in KINDS.items():
        runs = []
        for seed in range(1, rounds + 1):
            home = root / f"{kind.replace(' ', '-')}-{seed}"
            home.mkdir()
            with _two_replicas(home) as stack:
                jobs = jobs_of(seed, tasks, PACE, LOAD)
                runs.append(uvloop.run(play(stack, jobs, PACE, guesses=guesses)))
        figures += _figures(kind, runs)
    return Answer(
        question=f"Predicted start and real one: {tasks} tasks on {REPLICAS} replicas of one slot",
        measured_how=(
            f"{rounds} seeded loads for each kind, in bursts, on daemons that know nothing yet;"
            f" output of 4 to 200 tokens with max_tokens {MAX_TOKENS}, prompts of 5 to 600, batch"
            f" among interactive; error is |predicted - real| / real of tasks that waited more"
            f" than {WAITED_MS} ms; guess: expected_tokens, give or take a fifth"
        ),
        figures=tuple(figures),
    )


def _figures(kind: str, runs: Sequence[Sequence[Wait]]) -> list[Figure]:
    late = [run[len(run) // 2 :] for run in runs]
    return [
        Figure.of(f"{kind}: median error", _errors(runs), "%", "<= 25"),
        Figure.of(f"{kind}: median error, second half", _errors(late), "%", "<= 25"),
        Figure.of(f"{kind}: within 2x", _within(runs), "%"),
        Figure.of(f"{kind}: within 2x, second half", _within(late), "%"),
        Figure.of(f"{kind}: median error, batch", _errors(runs, priority="batch"), "%"),
        Figure.of(f"{kind}: tasks compared", [len(_that_waited(run)) for run in runs], ""),
        Figure.of(f"{kind}: longest line", [max(w.position for w in run) for run in runs], "tasks"),
    ]


def _errors(runs: Sequence[Sequence[Wait]], priority: str | None = None) -> list[float]:
    return [
        100
        * statistics.median(
            wait.error for wait in _that_waited(run) if priority in (None, wait.job.priority)
        )
        for run in runs
    ]


def _within(runs: Sequence[Sequence[Wait]]) -> list[float]:
    return [100 * statistics.mean(wait.within_twice for wait in _that_waited(run)) for run in runs]


def _that_waited(run: Sequence[Wait]) -> list[Wait]:
    """Those that were told a time and waited long enough to compare."""
    waits = [w for w in run if w.predicted_ms is not None and w.waited_ms > WAITED_MS]
    if not waits:
        raise BenchFailed("no task waited: the load is too light for this machine")
    return waits


@contextlib.contextmanager
def _two_replicas(root: Path) -> Iterator[Stack]:
    model = root / "any.gguf"
    model.write_bytes(b"any file will do")
    options = ["--token-ms", str(PACE.token_ms)]
    options += ["--prefill-ms-per-token", str(PACE.prefill_ms_per_token)]
    pool = {
        "id": "paced",
        "engine": "llamacpp",
        "model": {"id": "tiny", "ref": f"file:{model}"},
        "ctx": 4096,
        "slots": 1,
        "replicas": [{"devices": []}] * REPLICAS,
        "provisioning": {"mode": "command", "command": fake_command(*options)},
    }
    with running_stack(root, [pool]) as stack:
        stack.wait_serving("paced", REPLICAS)
        yield stack
