"""What a stand-in engine ran, in a file that outlives it.

One line of JSON for each completion request when it comes, and one when it is
over; an engine that was killed leaves the first without the second.  Several
engines may share a file.

    {"event": "begin", "correlation_id": "…", "slot": 0, "at": 1760000000.1, "sent": 0, "pid": 9}

`slot` is the one that was asked for at the beginning and the one it had at the
end, null where there was none; `sent` counts tokens; `at` is Unix seconds.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Attempt:
    """One completion request, as it goes."""

    correlation_id: str | None
    slot: int | None
    sent: int = 0


@dataclass
class AttemptsLog:
    """The file, or none."""

    path: Path | None

    def begin(self, attempt: Attempt) -> None:
        """Note that a request came."""
        self._write("begin", attempt)

    def end(self, attempt: Attempt) -> None:
        """Note that it is over, however."""
        self._write("end", attempt)

    def _write(self, event: str, attempt: Attempt) -> None:
        if self.path is None:
            return
        row = {
            "event": event,
            "correlation_id": attempt.correlation_id,
            "slot": attempt.slot,
            "at": time.time(),
            "sent": attempt.sent,
            "pid": os.getpid(),
        }
        # One write at the end of the file: lines of several engines do not mix.
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(row).encode() + b"\n")
