"""A scenario that proves nothing fails, and so does one that leaves something behind."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from test_harness.chaos.__main__ import main
from test_harness.chaos.aftermath import aftermath
from test_harness.chaos.catalogue import SCENARIOS, named
from test_harness.chaos.figures import Figures, at_least, at_most, broken, exactly, timely
from test_harness.chaos.scenario import Missing, Scenario, perform
from test_harness.chaos.standing import NOTES, noted


def scenario(figures: Figures, prepare: Callable[[Path], object] = lambda _: None) -> Scenario:
    """One that does `prepare` in its directory and measured `figures`."""

    def play(root: Path, _seed: int, _full: bool) -> Figures:
        prepare(root)
        return figures

    return Scenario("X-1", "it holds", play, fault="kills")


def test_a_figure_is_held_to_its_bound() -> None:
    """Below, at and above."""
    assert broken({"a": exactly(1, 1), "b": at_least(2, 2), "c": at_most(2, 2), "d": 9.0}) == []
    wrong = {"a": exactly(2, 1), "b": at_least(1, 2), "c": at_most(3, 2)}
    assert broken(wrong) == ["a: 2, must be 1", "b: 1, must be >= 2", "c: 3, must be <= 2"]


def test_only_a_time_may_be_longer_in_a_short_run() -> None:
    """Ten times, and not more."""
    assert timely(20.0, 2.0, full=False).held
    assert not timely(20.1, 2.0, full=False).held
    assert not timely(2.1, 2.0, full=True).held


def test_a_scenario_that_did_not_reach_its_fault_fails(tmp_path: Path) -> None:
    """Bounded by itself or not, and where the figure is not there at all."""
    assert perform(scenario({"kills": 0}), tmp_path, 1, full=False).broken
    assert not perform(scenario({"kills": 1}), tmp_path, 1, full=False).broken
    with pytest.raises(AssertionError, match="never reached"):
        perform(scenario({"kills": exactly(0, 0)}), tmp_path, 1, full=False)
    with pytest.raises(KeyError):
        perform(scenario({"lost": exactly(0, 0)}), tmp_path, 1, full=False)


@pytest.mark.parametrize(
    ("line", "figure"),
    [
        ({"event": "http.request", "route": "/v1/tasks", "status": 500}, "unexpected 5xx"),
        ({"event": "http.request", "route": "/v1/tasks", "status": 507}, None),
        ({"event": "http.request", "route": "/readyz", "status": 503}, None),
        ({"event": "http.request", "route": "/v1/tasks", "status": 429}, None),
        ({"event": "attempt_failed"}, "defects logged"),
        ({"event": "daemon.crashed"}, None),
    ],
)
def test_a_log_tells_of_what_should_not_be(
    tmp_path: Path, line: dict[str, object], figure: str | None
) -> None:
    """What belongs to the scenario is not held against it."""
    (tmp_path / "orchestratord.log").write_text(f"plain text\n{json.dumps(line)}\n")
    found = aftermath(tmp_path, frozenset({507}), frozenset({"daemon.crashed"}))
    assert [entry.partition(":")[0] for entry in broken(found)] == ([figure] if figure else [])


def test_a_process_that_was_left_is_found(tmp_path: Path) -> None:
    """One that has nothing of the scenario but the file it writes to."""
    with (tmp_path / "engine.log").open("wb") as log:
        left = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=log
        )
    try:
        found = aftermath(tmp_path, frozenset())
    finally:
        left.kill()
        left.communicate()
    assert broken(found) == ["processes left: 1, must be 0"]


def test_a_damaged_database_is_found(tmp_path: Path) -> None:
    """Wherever it lies."""
    path = tmp_path / "first" / "state" / "orchestratord.sqlite"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 100,)] * 200)
        connection.commit()
    assert broken(aftermath(tmp_path, frozenset())) == []
    content = bytearray(path.read_bytes())
    content[4096:4160] = bytes(range(64))
    path.write_bytes(content)
    assert broken(aftermath(tmp_path, frozenset())) == ["damaged databases: 1, must be 0"]


def test_the_worst_note_of_all_daemons_counts(tmp_path: Path) -> None:
    """As late as the latest loop, as many zombies as the most."""
    assert noted(tmp_path, full=True) == {}
    for name, told in {"a": [0.01, 0.1, 0], "b": [0.1, 0.25, 1]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / NOTES).write_text(json.dumps(told) + "\n")
    assert broken(noted(tmp_path, full=True)) == [
        "loop lag p99, s: 0.1, must be <= 0.05",
        "zombies: 1, must be 0",
    ]
    assert broken(noted(tmp_path, full=False)) == ["zombies: 1, must be 0"]


def test_a_row_asks_for_all_its_scenarios() -> None:
    """And a name for one."""
    assert named("no-such") == []
    assert [s.name for s in named("killed_at_random")] == ["killed_at_random"]
    assert named("D-1") == named("killed_at_random")
    assert len({s.name for s in SCENARIOS.values()}) == len(SCENARIOS)


def lack(_root: Path) -> None:
    """Prepare nothing, for want of something."""
    raise Missing("no strace is here")


def meet_a_bug(_root: Path) -> None:
    """Prepare nothing, and fail."""
    raise ValueError("of its own")


@pytest.mark.parametrize(
    ("played", "code", "word"),
    [
        (scenario({"kills": 1, "lost": exactly(0, 0)}), 0, "held"),
        (scenario({"kills": 1, "lost": exactly(1, 0)}), 1, "BROKEN"),
        (scenario({"kills": 1}, lack), 0, "SKIPPED"),
        (scenario({"kills": 1}, meet_a_bug), 1, "BROKEN"),
    ],
)
def test_a_verdict_is_told_and_decides_the_exit_code(
    played: Scenario,
    code: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a table for people, and as JSON for scripts; its seed plays it again."""
    monkeypatch.setitem(SCENARIOS, played.name, played)
    monkeypatch.setattr(sys, "argv", ["ci/soak", played.name, "--seed", "5", "--json"])
    assert main() == code
    told = capsys.readouterr()
    (verdict,) = json.loads(told.out)
    assert (verdict["row"], verdict["verdict"], verdict["seed"]) == ("X-1", word, 5)
    assert f"X-1 it holds: {word}" in told.err
