"""Starting and stopping both daemons: stand-ins that fail on purpose, real processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import anyio
import pytest

from contracts.config import Config, Timeouts
from llama_orch.daemons import Daemons, log_tail
from llama_orch.failures import Failed
from llama_orch.tests.scripted_server import command_environment

pytestmark = pytest.mark.anyio

WELL = """
import os, signal, sys, time
from pathlib import Path
from contracts.service.run_files import RunFile
state = Path(os.environ["STATE"])
def stop(*_):
    with (state / "order").open("a") as order:
        order.write(NAME + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
RunFile.write(state, NAME, "http://127.0.0.1:1")
time.sleep(60)
"""
STUBBORN = WELL.replace("signal.signal(signal.SIGTERM, stop)", "signal.signal(15, signal.SIG_IGN)")


def daemons(tmp_path: Path, orchestratord: str, pool_managerd: str) -> Daemons:
    """Both names as modules of ours, found before the real ones."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    programs = tmp_path / "programs"
    for name, code in (("orchestratord", orchestratord), ("pool_managerd", pool_managerd)):
        module = programs / name
        module.mkdir(parents=True)
        (module / "__init__.py").touch()
        (module / "__main__.py").write_text(f"NAME = {name!r}\n{code}")
    environment = command_environment(tmp_path) | {"STATE": str(state)}
    environment["PYTHONPATH"] = f"{programs}:{environment['PYTHONPATH']}"
    environment["PYTHONSAFEPATH"] = "1"
    config = Config(timeouts=Timeouts(drain_ms=0, stop_grace_ms=0))
    return Daemons(config, tmp_path / "config.yaml", state, environment)


async def test_orchestratord_is_stopped_first(tmp_path: Path) -> None:
    """LO-CMD-020."""
    both = daemons(tmp_path, WELL, WELL)
    assert await both.start() == "http://127.0.0.1:1"
    assert [os.getsid(pid) for pid in both.pids()] == list(both.pids())
    await both.stop(anyio.Event())
    assert (tmp_path / "state/order").read_text() == "orchestratord\npool_managerd\n"


async def test_a_daemon_that_cannot_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    busy = "sys = __import__('sys'); sys.stderr.write('orchestratord: port 1 is taken\\n')\n"
    both = daemons(tmp_path, busy + "sys.exit(75)", WELL)
    with pytest.raises(Failed, match="orchestratord did not start: port 1 is taken"):
        await both.start()
    await both.stop(anyio.Event())


async def test_a_daemon_that_dies_is_told_with_its_last_lines(tmp_path: Path) -> None:
    both = daemons(tmp_path, WELL, WELL + "\n")
    await both.start()
    _, manager = both.pids()
    os.kill(manager, signal.SIGKILL)
    with anyio.fail_after(20):
        death = await both.first_death()
    await both.stop(anyio.Event())
    assert "pool_managerd was killed by SIGKILL" in death.message


async def test_a_hurried_stop_kills_orchestratord_and_leaves_pool_managerd_its_time(
    tmp_path: Path,
) -> None:
    both = daemons(tmp_path, STUBBORN, WELL)
    await both.start()
    hurry = anyio.Event()
    hurry.set()
    with anyio.fail_after(5):
        await both.stop(hurry)
    assert (tmp_path / "state/order").read_text() == "pool_managerd\n"


async def test_a_killed_pool_managerd_is_started_once_more_to_end_its_engines(
    tmp_path: Path,
) -> None:
    both = daemons(tmp_path, WELL, WELL)
    await both.start()
    os.kill(both.pids()[1], signal.SIGKILL)
    with anyio.fail_after(20):
        await both.first_death()
        await both.stop(anyio.Event())
    assert (tmp_path / "state/order").read_text() == "orchestratord\npool_managerd\n"


async def test_engines_that_cannot_be_ended_are_told(tmp_path: Path) -> None:
    both = daemons(tmp_path, WELL, WELL.replace("sys.exit(0)", "sys.exit(1)"))
    await both.start()
    with anyio.fail_after(20), pytest.raises(Failed, match="its engine processes may still run"):
        await both.stop(anyio.Event())


def test_log_lines_are_made_readable(tmp_path: Path) -> None:
    path = tmp_path / "d.log"
    record = {"event": "replica.died", "level": "error", "at": "t", "replica_id": "a/0"}
    path.write_text(f"plain words\n{json.dumps(record)}\n\n{{broken\n")
    assert log_tail(path) == ["plain words", "error: replica.died replica_id=a/0", "{broken"]


def test_the_tail_of_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "none") == []
