"""Replicas as real processes: they serve, die, misbehave and go."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable

import anyio
import pytest

from contracts.pools import FailureReason, ReplicaState
from pool_managerd import launch
from pool_managerd.procfs import process_stat, session_members
from pool_managerd.run_records import ProcessRecord, RunRecords
from pool_managerd.watching import Patience
from test_harness.supervised import SupervisorHarness
from worker_adapters.transport import EngineTransport

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
S = ReplicaState
SLOW = {"base_ms": 60_000, "cap_ms": 60_000}


async def wait_for(seen: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not seen():  # noqa: ASYNC110 - what is waited for is on disk
            await anyio.sleep(0.02)


def is_gone(pid: int) -> bool:
    stat = process_stat(pid)
    return stat is None or stat.state in "ZX"


async def test_a_replica_serves_after_a_token_and_stops_with_its_group_empty(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-003, LO-POOL-008, LO-WRK-013."""
    async with harness.supervise(harness.pool()) as it:
        await it.until_state(S.READY)
        pid = it.replica.pid
        assert pid is not None
        assert it.replica.view(0).slots_total == 2
        assert it.replica.view(0).engine_version == "fake-1"
        assert [record.pid for record in it.records.read_all()] == [pid]
    assert it.states == [S.PROVISIONING, S.STARTING, S.READY, S.STOPPING, S.STOPPED]
    assert session_members(pid) == []
    assert it.records.read_all() == []


async def test_a_dead_child_is_noticed_and_started_again(harness: SupervisorHarness) -> None:
    """LO-POOL-020."""
    async with harness.supervise(harness.pool()) as it:
        await it.until_state(S.READY)
        first = it.replica.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await it.until(lambda replica: replica.pid not in (None, first))
        await it.until_state(S.READY)
        error = it.replica.last_error
        assert error is not None
        assert error.reason is FailureReason.CRASH
        assert "SIGKILL" in error.message
        assert it.replica.restarts == {FailureReason.CRASH: 1}
    assert S.BACKOFF in it.states


async def test_a_child_that_dies_while_it_starts_is_noticed_at_once(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-006."""
    pool = harness.pool("--fault", "die-at-start", restart=SLOW)
    with anyio.fail_after(10):
        async with harness.supervise(pool, start_timeout_s=600) as it:
            await it.until_state(S.BACKOFF)
            error = it.replica.last_error
    assert error is not None
    assert error.reason is FailureReason.EXITED
    assert "exit code 3" in error.message
    assert error.log_tail == ("a fault of this test: die-at-start",)


async def test_many_deaths_open_the_breaker_and_one_try_follows(harness: SupervisorHarness) -> None:
    """LO-POOL-021, LO-POOL-022."""
    restart = {"base_ms": 10, "cap_ms": 300, "intensity": 2, "window_ms": 60_000}
    async with harness.supervise(harness.pool("--fault", "die-at-start", restart=restart)) as it:
        await it.until_state(S.FAILED)
        assert it.supervisor.budget.breaker == "open"
        await it.until_state(S.PROVISIONING)
        assert it.supervisor.budget.breaker == "half_open"
        await it.until_state(S.FAILED)


async def test_a_child_that_ignores_term_is_killed_after_the_grace(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-008."""
    async with harness.supervise(harness.pool("--fault", "ignore-term"), grace_ms=300) as it:
        await it.until_state(S.READY)
        pid = it.replica.pid
        assert pid is not None
        before = anyio.current_time()
    assert 0.25 < anyio.current_time() - before < 2.3
    assert it.replica.state is S.STOPPED
    assert is_gone(pid)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_grandchildren_go_with_a_replica_that_dies_or_is_stopped(
    harness: SupervisorHarness, ending: signal.Signals
) -> None:
    """LO-POOL-007, LO-POOL-009."""
    pid_file = harness.root / "grandchild"
    pool = harness.pool("--fault", "grandchild", "--pid-file", str(pid_file))
    async with harness.supervise(pool, grace_ms=300) as it:
        await it.until_state(S.READY)
        grandchild = int(pid_file.read_text())
        assert not is_gone(grandchild)
        if ending is signal.SIGKILL:
            assert it.replica.pid is not None
            os.kill(it.replica.pid, ending)
            await it.until_state(S.BACKOFF)
            assert is_gone(grandchild)
    assert is_gone(grandchild)


async def test_a_stop_while_it_starts_leaves_nothing(harness: SupervisorHarness) -> None:
    async with harness.supervise(harness.pool("--fault", "silent-start"), grace_ms=500) as it:
        await it.until(lambda replica: replica.pid is not None)
        pid = it.replica.pid
        assert pid is not None
    assert it.replica.state is S.STOPPED
    assert is_gone(pid)


async def test_a_replica_that_never_opens_its_port_fails_by_its_deadline(
    harness: SupervisorHarness,
) -> None:
    pool = harness.pool("--fault", "silent-start", restart=SLOW)
    async with harness.supervise(pool, start_timeout_s=0.5) as it:
        await it.until_state(S.BACKOFF)
        assert it.replica.last_error is not None
        assert it.replica.last_error.reason is FailureReason.START_TIMEOUT
        assert it.replica.pid is None


async def test_loading_is_waited_for(harness: SupervisorHarness) -> None:
    async with harness.supervise(harness.pool("--fault", "slow-start-700")) as it:
        await it.until_state(S.READY)
    assert S.BACKOFF not in it.states


async def test_an_engine_that_generates_nothing_never_gets_ready(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-003: health is answered, and no token comes."""
    async with harness.supervise(
        harness.pool("--fault", "hang-after-0"), start_timeout_s=1.5
    ) as it:
        await it.until_state(S.BACKOFF)
    assert S.READY not in it.states


async def test_a_stand_in_that_takes_any_key_is_known_by_its_socket(
    harness: SupervisorHarness,
) -> None:
    async with harness.supervise(harness.pool("--fault", "wrong-identity")) as it:
        await it.until_state(S.READY)


async def test_an_impostor_on_the_port_is_refused_and_gets_no_prompt(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-004, LO-POOL-005: it answers everything, with any key, as our engine would."""
    port = launch._free_port()
    monkeypatch.setattr(launch, "_free_port", lambda: port)
    argv = [sys.executable, "-m", "test_harness.fake_engines.llamacpp", "--port", str(port)]
    impostor = await anyio.open_process([*argv, "--fault", "wrong-identity"])
    try:
        # Our own engine opens no port, so that the stranger is the one who is met.
        pool = harness.pool("--fault", "silent-start", restart=SLOW)
        async with harness.supervise(pool) as it:
            await it.until_state(S.BACKOFF)
            error = it.replica.last_error
        async with EngineTransport() as transport:
            figures = await transport.ask("GET", f"http://127.0.0.1:{port}/metrics", headers={})
    finally:
        impostor.kill()
        await impostor.aclose()
    assert error is not None
    assert error.reason is FailureReason.IDENTITY_MISMATCH
    assert S.READY not in it.states
    assert b"tokens_predicted_total 0" in figures.body


async def test_a_port_that_is_taken_meanwhile_is_exchanged(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = launch._free_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(launch, "_free_port", lambda: ports.pop() if ports else free())
        async with harness.supervise(harness.pool()) as it:
            await it.until_state(S.READY)
    assert S.BACKOFF in it.states


async def test_a_flood_of_output_neither_blocks_nor_fills_the_disk(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-POOL-011, LO-SYS-050."""
    monkeypatch.setattr("pool_managerd.log_keeper.LOOK_S", (0.02, 0.02))
    logs = harness.state_dir / "logs"
    async with harness.supervise(harness.pool("--fault", "log-flood")) as it:
        await it.until_state(S.READY)
        await wait_for((logs / "p@0.log.1").exists)
        assert it.replica.state is S.READY
    assert (logs / "p@0.log.1").stat().st_size <= 4 * 1024 * 1024


async def test_a_disk_that_takes_no_record_is_a_failure_and_not_the_end(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that was started without a record is ended, and tried again."""
    write = RunRecords.write
    broken = [OSError(errno.ENOSPC, "No space left on device")]
    pids: list[int] = []

    def fail_once(self: RunRecords, record: ProcessRecord) -> None:
        pids.append(record.pid)
        if broken:
            raise broken.pop()
        write(self, record)

    monkeypatch.setattr(RunRecords, "write", fail_once)
    async with harness.supervise(harness.pool()) as it:
        await it.until_state(S.READY)
        assert it.replica.last_error is not None
        assert "No space left" in it.replica.last_error.message
        assert it.replica.pid == pids[1]
        assert is_gone(pids[0])


@pytest.fixture
def watched_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are looked at often: llama.cpp's quiet second is of no matter here."""
    for name in ("OBSERVE_S", "OBSERVE_MIN_S"):
        monkeypatch.setattr(f"pool_managerd.watching.{name}", 0.1)
    monkeypatch.setattr("pool_managerd.watching.ANSWER_S", 0.2)


PATIENT = Patience(stall_ms=60_000, first_token_ms=60_000, canary_ms=60_000)


@pytest.mark.usefixtures("watched_closely")
async def test_an_engine_that_takes_no_connection_any_more_is_started_again(
    harness: SupervisorHarness,
) -> None:
    async with harness.supervise(harness.pool("--fault", "deaf-after-1")) as it:
        await it.until_state(S.UNHEALTHY)
        await it.until_state(S.BACKOFF)
        assert it.replica.last_error is not None
        assert it.replica.last_error.reason is FailureReason.UNREACHABLE
        await it.until_state(S.READY)


@pytest.mark.usefixtures("watched_closely")
async def test_an_engine_that_is_slow_to_answer_is_not_taken_for_dead(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-016: its port still takes connections, as in a long prefill."""
    async with harness.supervise(harness.pool(), grace_ms=200, patience=PATIENT) as it:
        await it.until_state(S.READY)
        pid = it.replica.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await anyio.sleep(1.0)
        assert it.replica.state is S.READY
    assert is_gone(pid)


@pytest.mark.usefixtures("watched_closely")
async def test_an_idle_engine_that_generates_nothing_any_more_is_exchanged(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-155, LO-POOL-156: it is frozen, and its port takes connections."""
    patience = Patience(stall_ms=500, first_token_ms=500, canary_ms=300)
    async with harness.supervise(harness.pool(), grace_ms=200, patience=patience) as it:
        await it.until_state(S.READY)
        pid = it.replica.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await it.until_state(S.UNHEALTHY)
        assert it.replica.slots_open == 0
        await it.until(lambda replica: replica.pid not in (None, pid))
        await it.until_state(S.READY)
        assert it.replica.last_error is not None
        assert it.replica.last_error.reason is FailureReason.NOT_PROGRESSING
        assert is_gone(pid)


@pytest.mark.usefixtures("watched_closely")
async def test_an_engine_under_suspicion_that_generates_a_token_is_ready_again(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-156."""
    async with harness.supervise(harness.pool(), patience=PATIENT) as it:
        await it.until_state(S.READY)
        pid = it.replica.pid
        it.replica.suspect("a task on it was given up")
        assert it.replica.slots_open == 0
        await it.until_state(S.UNHEALTHY)
        await it.until_state(S.READY)
        assert it.replica.slots_open == 2
        assert it.replica.pid == pid


@pytest.mark.usefixtures("watched_closely")
async def test_an_engine_that_is_half_alive_is_exchanged_though_it_answers_everything(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-155, LO-POOL-156: it generated one token, and then no more."""
    patience = Patience(stall_ms=500, first_token_ms=500, canary_ms=300)
    pool = harness.pool("--fault", "half-alive")
    async with harness.supervise(pool, grace_ms=200, patience=patience) as it:
        await it.until_state(S.READY)
        pid = it.replica.pid
        await it.until_state(S.UNHEALTHY)
        await it.until_state(S.BACKOFF)
        assert it.replica.last_error is not None
        assert it.replica.last_error.reason is FailureReason.NOT_PROGRESSING
        assert pid is not None
        assert is_gone(pid)


async def test_an_engine_whose_first_process_leaves_a_child_is_ended_whole(
    harness: SupervisorHarness,
) -> None:
    """LO-POOL-007, LO-POOL-009: nobody could tell how that child ends."""
    pid_file = harness.root / "child"
    pool = harness.pool("--fault", "fork-on-start", "--pid-file", str(pid_file), restart=SLOW)
    async with harness.supervise(pool, grace_ms=300) as it:
        await it.until_state(S.BACKOFF)
        assert it.replica.last_error is not None
        assert it.replica.last_error.reason is FailureReason.EXITED
        assert is_gone(int(pid_file.read_text()))
    assert S.READY not in it.states
