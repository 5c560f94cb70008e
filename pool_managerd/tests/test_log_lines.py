"""What a reader of a log is shown."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from pool_managerd.log_lines import LOST, SHOWN_CHARACTERS_MAX, LineCutter, lines_of
from pool_managerd.replica_log import ReplicaLog

pytestmark = pytest.mark.anyio
KEY = "k" * 43


async def test_lines_are_whole_printable_bounded_and_without_keys(tmp_path: Path) -> None:
    """LO-POOL-128."""
    cutter, keys = LineCutter(), (KEY,)
    assert cutter.lines(b"a key=" + KEY[:20].encode(), keys) == []
    assert cutter.lines(KEY[20:].encode() + b" \x1b[2J\tz\r\nopen", keys) == [
        "a key=[redacted] \N{REPLACEMENT CHARACTER}[2J z"
    ]
    assert cutter.rest(keys) == ["open"]
    assert cutter.rest(keys) == []
    hidden = b"y" * (SHOWN_CHARACTERS_MAX - 20) + KEY.encode()
    (line,) = [
        line
        for n in range(99)
        for line in cutter.lines(hidden if n == 0 else b"w" * 999 + b"\n" * (n == 98), keys)
    ]
    assert len(line) == SHOWN_CHARACTERS_MAX
    assert "kk" not in line


async def test_without_follow_nothing_newer_is_told(tmp_path: Path) -> None:
    """LO-POOL-126."""
    log = ReplicaLog(tmp_path, "p/0")
    descriptor = log.open_for_launch()
    os.write(descriptor, b"1\n2\n3\nopen")
    seen: list[str] = []
    async for lines in lines_of(lambda: log, log.start_of_last(3), lambda: False):
        seen.extend(lines)
        os.write(descriptor, b" more\n")
    os.close(descriptor)
    assert seen == ["2", "3", "open"]


async def test_a_reader_that_cannot_keep_up_is_told_what_it_missed(tmp_path: Path) -> None:
    """LO-POOL-127."""
    log = ReplicaLog(tmp_path, "p/0", bytes_max=100)
    descriptor = log.open_for_launch()
    os.write(descriptor, b"first\n")
    seen: list[str] = []
    with anyio.fail_after(10):
        async for lines in lines_of(lambda: log, log.start_of_last(5), lambda: "end" not in seen):
            seen.extend(lines)
            if seen == ["first"]:
                os.write(descriptor, b"x" * 200 + b"\n" + b"y" * 30 + b"\nend\n")
                log.bound()
    os.close(descriptor)
    assert seen[:2] == ["first", LOST]
    assert seen[-2:] == ["y" * 30, "end"]


async def test_a_replica_that_is_made_anew_is_followed_on_and_one_that_is_gone_ends(
    tmp_path: Path,
) -> None:
    """LO-POOL-127."""
    logs: list[ReplicaLog | None] = [ReplicaLog(tmp_path, "p/0", bytes_max=10)]
    first = logs[0]
    assert first is not None
    descriptor = first.open_for_launch()
    os.write(descriptor, b"before the cut\n")
    first.bound()
    os.write(descriptor, b"first\n")
    seen: list[str] = []
    with anyio.fail_after(10):
        async for lines in lines_of(lambda: logs[0], first.start_of_last(1), lambda: True):
            seen.extend(lines)
            if seen == ["first"]:
                logs[0] = ReplicaLog(tmp_path, "p/0")
                os.write(descriptor, b"second\n")
            else:
                logs[0] = None
    os.close(descriptor)
    assert seen == ["first", "second"]
