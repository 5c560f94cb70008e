"""In which order a daemon syncs its log and answers, as the kernel saw it."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from test_harness.stack import wait_for

TRACED = "trace=fsync,fdatasync,write,writev,sendto,sendmsg"
ATTACHED_S = 0.5
STOP_S = 10.0

_SYNCED = re.compile(r"(?:fsync|fdatasync)(?:\(\d+<\S*-wal>| resumed>).*\) += 0")
_ANSWERED = re.compile(r"HTTP/1\.1 202 ")


@dataclass
class Synced:
    """What was traced."""

    answers: int = 0
    """202s."""
    unsynced: int = field(default=0)
    """Of these, those without a sync of the log since the one before."""


def can_trace() -> bool:
    """Whether there is an strace here that may trace another process."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return tried.returncode == 0


@contextlib.contextmanager
def traced(pid: int, output: Path) -> Iterator[Synced]:
    """Trace a process around the block, in which one client posts one task after the other."""
    found = Synced()
    argv = ["strace", "-f", "-y", "-s", "64", "-e", TRACED, "-o", str(output), "-p", str(pid)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        try:
            wait_for(output.exists, "strace writes its file")
            time.sleep(ATTACHED_S)
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=STOP_S)
    _read(output.read_text(errors="replace").splitlines(), found)


def _read(lines: Sequence[str], found: Synced) -> None:
    synced = False
    for line in lines:
        if _SYNCED.search(line):
            synced = True
        elif _ANSWERED.search(line):
            found.answers += 1
            found.unsynced += not synced
            synced = False
