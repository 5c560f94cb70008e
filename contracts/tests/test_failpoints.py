"""Points at which a test makes a daemon fail: how they are written, and what they do."""

from __future__ import annotations

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contracts.service.config_source import ConfigError
from contracts.service.failpoints import EXAMPLE, POINTS, Failpoints

ROOT = Path(__file__).parents[2]
SECONDS = 20.0


def failpoints(text: str | None) -> Failpoints:
    return Failpoints.parsed("orchestratord", text)


def outcomes(points: Failpoints, name: str, hits: int) -> list[str]:
    """What each hit of a point did: `-`, or the name of an error."""
    found = []
    for _ in range(hits):
        try:
            points.hit(name)
        except OSError as error:
            found.append(errno.errorcode[error.errno or 0])
        else:
            found.append("-")
    return found


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("off", "- - - -"),
        ("error(EIO)", "EIO EIO EIO EIO"),
        ("1*error(EIO)", "EIO - - -"),
        ("2*off->1*error(ENOSPC)", "- - ENOSPC -"),
        ("1*error(EIO)->1*off->error(EBUSY)", "EIO - EBUSY EBUSY"),
        ("1*error(EIO)->2*error(EDQUOT)->off", "EIO EDQUOT EDQUOT -"),
    ],
)
def test_a_point_does_hit_for_hit_what_its_terms_say(terms: str, expected: str) -> None:
    """LO-SYS-060."""
    points = failpoints(f"db.commit={terms}")
    assert outcomes(points, "db.commit", 4) == expected.split()


def test_points_count_for_themselves_and_others_stay_off() -> None:
    """LO-SYS-060."""
    points = failpoints("db.commit=1*error(EIO);db.read=1*off->error(EBUSY)")
    assert outcomes(points, "db.read", 2) == ["-", "EBUSY"]
    assert outcomes(points, "db.commit", 2) == ["EIO", "-"]
    assert outcomes(points, "db.begin", 2) == ["-", "-"]


def test_a_delay_holds_up_the_thread_that_hits_the_point() -> None:
    """LO-SYS-060."""
    points = failpoints("db.read=1*delay(30)")
    began = time.monotonic()
    points.hit("db.read")
    assert time.monotonic() - began >= 0.03


def test_a_kill_ends_the_process_after_it_was_said() -> None:
    """LO-SYS-060, LO-SYS-062."""
    code = (
        "from contracts.service.failpoints import Failpoints;"
        "from contracts.service.logs import configure_logs;"
        "configure_logs('info', 'orchestratord');"
        "points = Failpoints.parsed('orchestratord', 'db.commit=2*off->1*kill');"
        "[points.hit('db.commit') or print(hit, flush=True) for hit in range(9)]"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert child.returncode == -signal.SIGKILL
    assert child.stdout.split() == ["0", "1"]
    (line,) = child.stderr.splitlines()
    said = json.loads(line)
    assert (said["event"], said["name"], said["action"], said["count"]) == (
        "failpoint.reached",
        "db.commit",
        "kill",
        1,
    )


def test_every_hit_is_counted_and_every_fault_is_said() -> None:
    """LO-SYS-062."""
    points = failpoints("db.write=2*off->2*error(EIO)")
    with capture_logs() as said:
        outcomes(points, "db.write", 6)
    assert points.reached == {("db.write", "off"): 4, ("db.write", "error(EIO)"): 2}
    assert [(line["event"], line["action"], line["count"]) for line in said] == [
        ("failpoint.reached", "error(EIO)", 1),
        ("failpoint.reached", "error(EIO)", 2),
    ]


def test_hits_of_many_threads_are_each_given_one_term() -> None:
    points = failpoints("db.read=100*error(EIO)->100*off")

    def hit() -> None:
        outcomes(points, "db.read", 50)

    threads = [threading.Thread(target=hit) for _ in range(4)]
    with capture_logs():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert points.reached == {("db.read", "error(EIO)"): 100, ("db.read", "off"): 100}


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_word_of_it_nothing_fails(text: str | None) -> None:
    for points in (Failpoints.none(), failpoints(text)):
        assert outcomes(points, "db.commit", 2) == ["-", "-"]
        assert not points.reached


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("db.commit", "`db.commit` is not NAME=TERM"),
        (";", "`` is not NAME=TERM"),
        ("db.commit=off;", "`` is not NAME=TERM"),
        ("db.comit=off", "orchestratord has no point `db.comit`; it has db.begin, db.write"),
        ("replica.spawn=off", "orchestratord has no point `replica.spawn`"),
        ("=off", "orchestratord has no point ``"),
        ("db.read=off;db.read=kill", "`db.read` is given twice"),
        ("db.read=", "`` is no term"),
        ("db.read=of", "`of` is no term"),
        ("db.read=off\n", "is no term"),
        ("db.read= off", "` off` is no term"),
        ("db.read=0*off", "`0*off` is no term"),
        ("db.read=-1*off", "`-1*off` is no term"),
        ("db.read=1*", "`1*` is no term"),
        ("db.read=1000000000*off", "is no term"),
        ("db.read=error()", "`error()` is no term"),
        ("db.read=error(28)", "`error(28)` is no term"),
        ("db.read=error(ENOPE)", "no error is named `ENOPE`"),
        ("db.read=delay(-1)", "is no term"),
        ("db.read=delay(100000)", "is no term"),
        ("db.read=1*off->", "`` is no term"),
        ("db.read=off->kill", "nothing comes after `off`; give it a count: 1*off"),
        ("db.read=error(EIO)->1*off", "nothing comes after `error(EIO)`"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(text: str, message: str) -> None:
    """LO-SYS-061."""
    with pytest.raises(ConfigError) as caught:
        failpoints(text)
    line = str(caught.value)
    assert line.startswith("LLORCH_FAILPOINTS: ")
    assert message in line
    assert len(line) < 500


@pytest.mark.parametrize("text", [EXAMPLE, "db.read=999999999*delay(99999)", "db.read=delay(0)"])
def test_the_bounds_and_the_example_are_taken(text: str) -> None:
    failpoints(text)


def hits_in(package: str) -> Iterator[str]:
    """The names of the points that the code of a daemon hits."""
    for path in sorted((ROOT / package).rglob("*.py")):
        if "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "hit" and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


@pytest.mark.parametrize("daemon", POINTS)
def test_no_point_is_hit_that_has_no_name(daemon: str) -> None:
    """LO-SYS-063."""
    assert set(hits_in(daemon)) <= POINTS[daemon].keys()


DAEMON = """
import sys
from contextlib import asynccontextmanager
from contracts.service.daemon import run_daemon

@asynccontextmanager
async def open_service(settings, drain):
    raise AssertionError("it started")
    yield

sys.exit(run_daemon(sys.argv[1], open_service, sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("daemon", "text", "said"),
    [
        ("orchestratord", "db.commit=maybe", "`maybe` is no term"),
        ("orchestratord", "lease.grant=off", "orchestratord has no point `lease.grant`"),
        ("pool_managerd", "db.commit=off", "pool_managerd has no point `db.commit`"),
    ],
)
def test_a_daemon_that_does_not_understand_them_exits_78_before_it_starts(
    tmp_path: Path, daemon: str, text: str, said: str
) -> None:
    """LO-SYS-061."""
    config = tmp_path / "config.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")
    child = subprocess.run(
        [sys.executable, "-c", DAEMON, daemon, "--test-mode", "--config", str(config)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LLORCH_FAILPOINTS": text},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=SECONDS,
        check=False,
    )
    assert child.returncode == 78
    (line,) = child.stderr.splitlines()
    assert line.startswith(f"{daemon}: LLORCH_FAILPOINTS: ")
    assert said in line
