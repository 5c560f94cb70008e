"""`python -m test_harness.chaos [NAME]... [--seed N] [--short] [--json] [--dir DIR]`

Plays scenarios one after the other at full scale, and shows for each figure what was
measured and what it had to be.  Exit code 0 where every promise held, else 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from test_harness.chaos.catalogue import SCENARIOS, named
from test_harness.chaos.report import Verdict, as_json, show
from test_harness.chaos.scenario import Missing, Scenario, perform


def main() -> int:
    """Play what was asked for, and tell."""
    options = _parser().parse_args()
    console = Console(stderr=options.json)
    verdicts = []
    for scenario in _asked(options.name):
        with console.status(f"{scenario.row} {scenario.name}, seed {options.seed}"):
            verdicts.append(_played(scenario, options))
        show(verdicts[-1], console)
    if options.json:
        print(as_json(verdicts))
    return 1 if any(verdict.failures for verdict in verdicts) else 0


def _asked(names: Iterable[str]) -> list[Scenario]:
    found = {s.name: s for name in names for s in named(name)}
    return list((found or SCENARIOS).values())


def _played(scenario: Scenario, options: argparse.Namespace) -> Verdict:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llama-orch-soak-", dir=options.dir) as root:
        verdict = Verdict(scenario.row, scenario.name, scenario.promise, options.seed)
        try:
            outcome = perform(scenario, Path(root), options.seed, not options.short)
            verdict.figures, verdict.failures = outcome.figures, outcome.broken
        except Missing as missing:
            verdict.missing = str(missing)
        # A boundary: whatever a scenario meets is its verdict, and the next one is played.
        except Exception as error:  # noqa: BLE001
            traceback.print_exception(error)
            verdict.failures = [f"{type(error).__name__}: {str(error)[:500]}"]
    verdict.seconds = time.monotonic() - began
    return verdict


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ci/soak", description="Play faults at full scale.")
    parser.add_argument(
        "name",
        nargs="*",
        type=_name,
        help=f"a row such as D-1, or any of {', '.join(SCENARIOS)}; all where none is named",
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--short", action="store_true", help="as ci/test plays them")
    parser.add_argument("--json", action="store_true", help="one JSON array on stdout")
    parser.add_argument("--dir", type=Path, help="where state is kept; its disk is tried too")
    return parser


def _name(text: str) -> str:
    if not named(text):
        raise argparse.ArgumentTypeError(f"no scenario `{text}`; known: {', '.join(SCENARIOS)}")
    return text


if __name__ == "__main__":
    sys.exit(main())
