"""Whether the kernel killed a process for want of memory.

Its control group counts that (`oom_kill` of cgroup v2's memory.events); where there
is none to be read, the whole machine does (/proc/vmstat).  Both are files: read them
in a worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
VMSTAT = Path("/proc/vmstat")


@dataclass(frozen=True, slots=True)
class OomMark:
    """A counter of kills, and what it said at a launch."""

    counter: Path
    kills: int

    def killed_since(self) -> bool:
        """Whether the counter has risen since; False where it is gone."""
        return _kills(self.counter) > self.kills


def oom_mark(pid: int) -> OomMark:
    """The counter that tells of a process, as of now."""
    counter = _counter_of(pid)
    return OomMark(counter, _kills(counter))


def _counter_of(pid: int) -> Path:
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return VMSTAT
    for line in text.split("\n"):
        if line.startswith("0::/"):
            events = CGROUPS / line[len("0::/") :] / "memory.events"
            # The group may be seen from within another one, under a path that is not here.
            return events if events.is_file() else VMSTAT
    return VMSTAT


def _kills(counter: Path) -> int:
    try:
        lines = counter.read_text().split("\n")
    except OSError:
        return 0
    counts = (line.split() for line in lines if line.startswith("oom_kill "))
    return sum(int(count) for _, count in counts)
