"""`python -m test_harness.conformance.record DIALECT`: write a dialect's transcripts again.

The engine is started on loopback with a model made on the spot, and ended after.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from test_harness.conformance import recording_llamacpp, recording_triton
from test_harness.conformance.transcripts import Exchange, write

Recorder = Callable[[Path], tuple[str, Iterable[Exchange]]]
"""A folder to work in -> the engine's name with its version, and what it answered."""

RECORDERS: dict[str, Recorder] = {
    "llamacpp": recording_llamacpp.record,
    "triton": recording_triton.record,
}


def main() -> None:
    """Record one dialect."""
    parser = argparse.ArgumentParser(prog="python -m test_harness.conformance.record")
    parser.add_argument("dialect", choices=sorted(RECORDERS))
    dialect = parser.parse_args().dialect
    with tempfile.TemporaryDirectory(prefix="llama-orch-record-") as folder:
        engine, exchanges = RECORDERS[dialect](Path(folder))
        write(dialect, engine, exchanges)


if __name__ == "__main__":
    main()
