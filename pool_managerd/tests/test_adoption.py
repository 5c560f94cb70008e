"""Engines that an earlier manager left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pool_managerd.adoption import take_stock
from pool_managerd.procfs import session_members
from pool_managerd.run_records import LaunchFacts, ProcessRecord, RunRecords, identify

pytestmark = pytest.mark.anyio
SLEEP = "import time; time.sleep(600)"
WITH_HELPER = f"import subprocess,sys; subprocess.Popen([sys.executable,'-c','{SLEEP}']); {SLEEP}"


class Engine:
    """A process in a session of its own."""

    def __init__(self, code: str = SLEEP) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        self.record = identify("p/0", self.process.pid, "key")

    @property
    def runs(self) -> bool:
        return bool(session_members(self.process.pid))

    def end(self) -> None:
        for pid in session_members(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.end()


async def test_a_recorded_engine_is_ended_and_forgotten(tmp_path: Path, engine: Engine) -> None:
    """LO-POOL-010."""
    records = RunRecords(tmp_path)
    records.write(engine.record)
    assert records.read_all() == [engine.record]
    assert await take_stock(records, {}, grace_ms=1_000) == {}
    assert not engine.runs
    assert records.read_all() == []


@pytest.mark.parametrize(
    "change", [{"boot_id": "another boot"}, {"start_ticks": 1}], ids=["boot", "start"]
)
async def test_a_process_that_is_not_the_recorded_one_is_left_alone(
    tmp_path: Path, engine: Engine, change: dict[str, object]
) -> None:
    """LO-POOL-010: not by the pid alone."""
    records = RunRecords(tmp_path)
    records.write(replace(engine.record, **change))  # type: ignore[arg-type]
    assert await take_stock(records, {}, grace_ms=1_000) == {}
    assert engine.runs
    assert records.read_all() == []


async def test_helpers_of_a_dead_leader_are_ended_too(tmp_path: Path) -> None:
    engine = Engine(WITH_HELPER)
    try:
        while len(session_members(engine.process.pid)) < 2:
            pass
        records = RunRecords(tmp_path)
        records.write(engine.record)
        engine.process.kill()
        engine.process.wait()
        assert engine.runs
        assert await take_stock(records, {}, grace_ms=1_000) == {}
        assert not engine.runs
    finally:
        engine.end()


async def test_a_damaged_record_is_dropped(tmp_path: Path) -> None:
    records = RunRecords(tmp_path)
    records.write(ProcessRecord("p/0", 1, 1, 1, "b", "h"))
    (tmp_path / "run" / "replicas" / "p@0.json").write_text("{")
    assert await take_stock(records, {}, grace_ms=0) == {}
    assert list((tmp_path / "run" / "replicas").iterdir()) == []


def test_a_record_holds_no_key_and_is_the_owners_only(tmp_path: Path, engine: Engine) -> None:
    RunRecords(tmp_path).write(identify("p/0", engine.process.pid, "sekret"))
    path = tmp_path / "run" / "replicas" / "p@0.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"sekret" not in path.read_bytes()


@pytest.mark.parametrize(
    "change", [{"boot_id": "another boot"}, {"start_ticks": 1}], ids=["boot", "start"]
)
async def test_a_container_is_ended_and_who_has_its_clients_number_now_is_left_alone(
    tmp_path: Path, engine: Engine, change: dict[str, object]
) -> None:
    """LO-POOL-010, LO-POOL-108."""
    records, ended = RunRecords(tmp_path), tmp_path / "ended"
    launch = LaunchFacts(end_argv=("touch", str(ended)))
    records.write(replace(engine.record, launch=launch, **change))  # type: ignore[arg-type]
    assert await take_stock(records, {}, grace_ms=1_000) == {}
    assert engine.runs
    assert ended.exists()
    assert records.read_all() == []
