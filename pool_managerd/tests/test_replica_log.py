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


def read_all(log: ReplicaLog, position: int) -> tuple[bytes, int]:
    content = b""
    while piece := log.read(position).content:
        position = log.read(position).end
        content += piece
    return content, position


def test_a_reader_goes_on_over_a_cut_without_a_gap_or_a_repetition(tmp_path: Path) -> None:
    """LO-POOL-127."""
    log = ReplicaLog(tmp_path, "p/0", bytes_max=1000)
    descriptor = written(log, b"a" * 900)
    seen, position = read_all(log, 0)
    assert seen == b"a" * 900
    os.write(descriptor, b"b" * 300)
    log.bound()
    os.write(descriptor, b"c" * 10)
    assert read_all(log, position) == (b"b" * 300 + b"c" * 10, 1210)
    os.write(descriptor, b"d" * 5000)
    log.bound()
    piece = log.read(1210)
    assert (piece.position, piece.content) == (5710, b"d" * 500), "what was lost is skipped"
    os.close(descriptor)


def test_the_last_lines_are_found_over_blocks_cuts_and_earlier_daemons(tmp_path: Path) -> None:
    """LO-POOL-126."""
    lines = [b"%d" % n + b"x" * (n % 700) + b"\n" for n in range(3000)]
    first = ReplicaLog(tmp_path, "p/0", bytes_max=len(b"".join(lines[:2000])) - 1)
    descriptor = written(first, b"".join(lines[:2000]))
    first.bound()
    os.write(descriptor, b"".join(lines[2000:]))
    os.close(descriptor)
    kept = first.path.with_suffix(".log.1").read_bytes() + first.path.read_bytes()
    for log in (first, ReplicaLog(tmp_path, "p/0")):
        for count in (0, 1, 2, 90, 999, 1000, 1001, 1500):
            found, _ = read_all(log, log.start_of_last(count))
            assert found == b"".join(lines[3000 - count :])
        assert read_all(log, log.start_of_last(10_000))[0] == kept
    assert read_all(ReplicaLog(tmp_path, "none/0"), 0) == (b"", 0)
    assert ReplicaLog(tmp_path, "none/0").start_of_last(5) == 0


def test_a_log_that_somebody_else_cut_is_read_on(tmp_path: Path) -> None:
    log = ReplicaLog(tmp_path, "p/0")
    descriptor = written(log, b"a" * 100)
    _, position = read_all(log, 0)
    os.truncate(log.path, 0)
    assert log.read(position).position == 0
    os.write(descriptor, b"after")
    os.close(descriptor)
    assert read_all(log, 0)[0] == b"after"
