"""What a scenario must leave behind: no process, whole databases, no answer that was a defect."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from test_harness.chaos.figures import Figures, exactly

DEFECTS = frozenset({"http.internal_error", "attempt_failed", "daemon.crashed"})
"""Log events behind which there is a traceback."""
PROBES = frozenset({"/healthz", "/readyz"})
GONE_WITHIN_S = 5.0
TOLD_OF = 5
"""Things printed of each kind; a figure counts them all."""


def aftermath(
    root: Path, server_errors: frozenset[int], expected: frozenset[str] = frozenset()
) -> Figures:
    """Looks below `root`, where every stack of the scenario was.

    Args:
        server_errors: the 5xx statuses that belong to the scenario.
        expected: those of `DEFECTS` that belong to it.
    """
    lines = list(log_lines(root))
    found: dict[str, list[object]] = {
        "unexpected 5xx": [line for line in lines if _is_server_error(line, server_errors)],
        "defects logged": [line for line in lines if line.get("event") in DEFECTS - expected],
        "processes left": list(_left_of(root)),
        "damaged databases": list(_damage(root)),
    }
    for name, things in found.items():
        for thing in things[:TOLD_OF]:
            print(f"{name}: {thing}")
    return {name: exactly(len(things), 0) for name, things in found.items()}


def log_lines(root: Path, event: str | None = None) -> Iterator[dict[str, Any]]:
    """What the daemons below `root` logged, whole or about one thing; plain text is passed over."""
    for log in sorted(root.rglob("*.log")):
        if log.stem not in {"orchestratord", "pool_managerd"}:
            continue
        for text in log.read_text(errors="replace").splitlines():
            if text.startswith("{"):
                line = json.loads(text)
                if event is None or line.get("event") == event:
                    yield line


def processes_of(root: Path) -> list[psutil.Process]:
    """Daemons and engines of the stacks below `root`: what was started with a path of it,
    or writes to a file in it."""
    return [process for process in psutil.process_iter() if _belongs(process, str(root))]


def _belongs(process: psutil.Process, root: str) -> bool:
    if process.pid == psutil.Process().pid:
        return False
    try:
        if any(part.startswith(root) for part in process.cmdline()):
            return True
        return str(Path(f"/proc/{process.pid}/fd/2").readlink()).startswith(root)
    except (psutil.Error, OSError):
        return False  # it has ended meanwhile, or is nobody's we may look at


def _left_of(root: Path) -> list[str]:
    """Processes that do not end by themselves, a moment after everything was stopped."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := processes_of(root)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [repr(process) for process in left]


def _damage(root: Path) -> list[str]:
    found = [(path, integrity(path)) for path in sorted(root.rglob("orchestratord.sqlite"))]
    return [f"{path}: {verdict}" for path, verdict in found if verdict != "ok"]


def integrity(path: Path) -> str:
    """What SQLite finds wrong with a database; `ok` where it finds nothing."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)


def _is_server_error(line: dict[str, Any], expected: frozenset[int]) -> bool:
    if line.get("event") != "http.request" or line["route"] in PROBES:
        return False
    return line["status"] >= 500 and line["status"] not in expected
