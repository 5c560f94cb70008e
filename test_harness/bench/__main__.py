"""`python -m test_harness.bench [QUESTION]... [--rounds N] [--json]`

Exit code 0 whatever was measured; 1 where it could not be.  Run it on a machine
that does nothing else, and compare figures of one run only.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import aiohttp
from rich.console import Console

from test_harness.bench import (
    accepts,
    dialects,
    first_token,
    footprint,
    open_streams,
    prediction,
    queue_length,
    restart,
    supervision,
    token_cost,
)
from test_harness.bench.processes import BenchFailed
from test_harness.bench.report import Answer, as_json, show

QUESTIONS: dict[str, tuple[Callable[[Path, int], Answer], int]] = {
    "token-cost": (token_cost.measure, 5),
    "first-token": (first_token.measure, 3),
    "footprint": (footprint.measure, 5),
    "accepts": (accepts.measure, 3),
    "restart": (restart.measure, 3),
    "open-streams": (open_streams.measure, 1),
    "queue-length": (queue_length.measure, 1),
    "prediction": (prediction.measure, 3),
    "supervision": (supervision.measure, 3),
    "dialects": (dialects.measure, 7),
}
"""How each is answered, and in how many rounds unless told."""

COULD_NOT = (
    *(BenchFailed, AssertionError, OSError),
    *(subprocess.TimeoutExpired, aiohttp.ClientError, ExceptionGroup),
)
"""How a measurement fails: a server did not start or did not answer as it should."""


def main() -> int:
    """Measure, and show what was found."""
    options = _parser().parse_args()
    console = Console(stderr=options.json)
    answers = []
    for name in options.question or QUESTIONS:
        measure, rounds = QUESTIONS[name]
        try:
            with tempfile.TemporaryDirectory(prefix="llama-orch-bench-", dir=options.dir) as root:
                with console.status(f"measuring {name}"):
                    answers.append(measure(Path(root), options.rounds or rounds))
        except COULD_NOT as error:
            sys.stderr.write(f"bench: {name}: {_cause(error)}\n")
            return 1
        if not options.json:
            show(answers[-1], console)
    if options.json:
        print(as_json(answers, _machine()))
    return 0


def _cause(error: Exception) -> Exception:
    return _cause(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ci/bench", description="Measure, print tables, and assert nothing on time."
    )
    names = ", ".join(QUESTIONS)
    parser.add_argument(
        "question", nargs="*", type=_question, help=f"any of {names}; all where none is named"
    )
    parser.add_argument("--rounds", type=_positive, help="how often each is measured")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument(
        "--dir", type=Path, help="where databases and logs are written; the disk is measured too"
    )
    return parser


def _question(text: str) -> str:
    if text not in QUESTIONS:
        raise argparse.ArgumentTypeError(f"no question `{text}`; known: {', '.join(QUESTIONS)}")
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
