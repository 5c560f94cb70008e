"""Ending what an engine leaves in process groups of its own, as TGI's router and shards are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from pool_managerd.adoption import take_stock
from pool_managerd.process_group import end_group
from pool_managerd.procfs import Listener, listener_on, session_members
from pool_managerd.run_records import RunRecords, identify

pytestmark = pytest.mark.anyio

SHARD = """
import os, signal, socket, sys, time
os.setpgid(0, 0)
if sys.argv[1] == 'deaf':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
time.sleep(600)
"""
LAUNCHER = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', {SHARD!r}, sys.argv[1]])
time.sleep(600)
"""


class Launcher:
    """A leader whose only helper serves, in a group of its own."""

    def __init__(self, manners: str) -> None:
        argv = [sys.executable, "-c", LAUNCHER, manners]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.pid = self.process.pid
        (self.shard,) = [pid for pid in session_members(self.pid) if pid != self.pid]

    def end(self) -> None:
        for pid in session_members(self.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(params=["mannerly", "deaf"])
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    launcher = Launcher(request.param)
    yield launcher
    launcher.end()


async def test_helpers_in_groups_of_their_own_are_ended_with_their_session(
    launcher: Launcher,
) -> None:
    """LO-POOL-008."""
    with anyio.fail_after(10):
        await end_group(launcher.pid, 300)
    assert session_members(launcher.pid) == []


async def test_they_are_ended_where_their_leader_is_dead(
    launcher: Launcher, tmp_path: Path
) -> None:
    """LO-POOL-008, LO-POOL-010: by this start of the daemon, and by the next one."""
    records = RunRecords(tmp_path)
    records.write(identify("p/0", launcher.pid, "key"))
    launcher.process.kill()
    launcher.process.wait()
    assert session_members(launcher.pid) == [launcher.shard]
    with anyio.fail_after(10):
        assert await take_stock(records, {}, grace_ms=300) == {}
    assert session_members(launcher.pid) == []


async def test_the_port_of_such_a_helper_is_the_replicas_own(launcher: Launcher) -> None:
    """LO-POOL-004."""
    assert listener_on(launcher.port, launcher.pid) is Listener.OURS
