"""The log of a replica: bounded from outside, and the tail of the newest launch."""

import os
from pathlib import Path

from pool_managerd.replica_log import LINE_CHARACTERS_MAX, TAIL_LINES, ReplicaLog


def written(log: ReplicaLog, text: bytes) -> int:
    descriptor = log.open_for_launch()
    os.write(descriptor, text)
    return descriptor


def test_a_log_over_its_bound_is_cut_under_the_writers_hands(tmp_path: Path) -> None:
    """LO-POOL-011."""
    log = ReplicaLog(tmp_path, "p/0", bytes_max=1000)
    descriptor = written(log, b"a" * 900 + b"b" * 101)
    log.bound()
    assert log.path.stat().st_size == 0
    assert (tmp_path / "logs" / "p@0.log.1").read_bytes() == b"a" * 399 + b"b" * 101
    os.write(descriptor, b"after\n")
    os.close(descriptor)
    assert log.path.read_bytes() == b"after\n"


def test_a_log_at_its_bound_is_left_alone(tmp_path: Path) -> None:
    log = ReplicaLog(tmp_path, "p/0", bytes_max=1000)
    os.close(written(log, b"a" * 1000))
    log.bound()
    assert log.path.stat().st_size == 1000


def test_the_tail_is_of_the_newest_launch_and_survives_a_cut(tmp_path: Path) -> None:
    log = ReplicaLog(tmp_path, "p/0", bytes_max=100)
    os.close(written(log, b"earlier launch\n"))
    descriptor = written(log, b"first\n" + b"x" * 100 + b"\nsecond\n")
    log.bound()
    os.write(descriptor, b"third\n")
    os.close(descriptor)
    tail = log.tail("")
    assert tail[-2:] == ("second", "third")
    assert "earlier launch" not in tail


def test_the_tail_is_bounded_printable_and_without_the_secret(tmp_path: Path) -> None:
    log = ReplicaLog(tmp_path, "p/0")
    lines = b"\n".join(b"%d" % n for n in range(100))
    os.close(written(log, lines + b"\nkey=sekret \x1b[31m\xff\n" + b"y" * 10_000))
    tail = log.tail("sekret")
    assert len(tail) == TAIL_LINES
    assert tail[-2] == "key=[redacted] \N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}"
    assert len(tail[-1]) == LINE_CHARACTERS_MAX


def test_the_log_is_the_owners_only(tmp_path: Path) -> None:
    log = ReplicaLog(tmp_path, "p/0", bytes_max=1)
    os.close(written(log, b"secret things"))
    log.bound()
    for path in (log.path, log.path.with_suffix(".log.1")):
        assert path.stat().st_mode & 0o777 == 0o600
