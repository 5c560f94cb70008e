"""The life of a daemon, as a real process: what it leaves, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contracts.service.daemon import HARD_STOP_MARGIN_SECONDS
from contracts.service.run_files import AlreadyRunning, RunFile, daemon_lock

pytestmark = pytest.mark.slow

SECONDS = 20.0


class Process:
    """One run of the sample daemon in `tmp_path`."""

    def __init__(self, tmp_path: Path, *arguments: str, **environ: str) -> None:
        self.state = tmp_path / "state"
        self.child = subprocess.Popen(
            [sys.executable, "-m", "contracts.tests.sample_daemon", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environ},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            umask=0o022,
        )

    def port(self) -> int:
        """The port, once the run file is there."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and self.child.poll() is None:
            info = RunFile.read(self.state, "orchestratord")
            if info is not None and info.pid == self.child.pid:
                return int(info.url.rpartition(":")[2])
            time.sleep(0.01)
        raise AssertionError(f"it never listened: {self.child.poll()}")

    def end(self) -> tuple[int, list[str]]:
        """Its exit code and the lines of stderr, logs and all."""
        _, text = self.child.communicate(timeout=SECONDS)
        return self.child.returncode, text.splitlines()

    def said(self) -> tuple[int, str]:
        """Its exit code and the one line for a person."""
        code, lines = self.end()
        (plain,) = [line for line in lines if not line.startswith("{")]
        assert "Traceback" not in plain
        return code, plain


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Process] = []

    def begin(text: str = "", *arguments: str, **environ: str) -> Process:
        config = tmp_path / "config.yaml"
        config.write_text(f"state_dir: {tmp_path / 'state'}\n{text or PORT_ZERO}")
        running.append(Process(tmp_path, "--config", str(config), *arguments, **environ))
        return running[-1]

    yield begin
    for process in running:
        process.child.kill()
        process.child.communicate()


PORT_ZERO = "orchestratord: {port: 0}\n"


def get(port: int, path: str, *headers: str) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    lines = (f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", "")
    found.sendall("\r\n".join(lines).encode())
    return found


def rest(found: socket.socket) -> bytes:
    data = b""
    while piece := found.recv(65536):
        data += piece
    found.close()
    return data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_open_streams_and_exits_0(start: Start, number: int) -> None:
    """LO-SYS-020, LO-SYS-022, LO-SYS-023, LO-SYS-024."""
    process = start()
    stream = get(process.port(), "/events")
    received = b""
    while b"first" not in received:
        received += stream.recv(65536)
    process.child.send_signal(number)
    assert rest(stream).endswith(b"SHUTTING_DOWN\n\n\r\n0\r\n\r\n")
    code, lines = process.end()
    assert code == 0
    assert all(json.loads(line)["daemon"] == "orchestratord" for line in lines)
    assert not (process.state / "run" / "orchestratord.json").exists()


def test_a_second_signal_on_the_way_out_changes_nothing(start: Start) -> None:
    """LO-SYS-020: the interpreter is still ending when it comes."""
    process = start()
    process.port()
    process.child.terminate()
    assert process.child.stderr is not None
    while '"daemon.stopped"' not in process.child.stderr.readline():
        pass
    process.child.terminate()
    assert process.end()[0] == 0


def test_what_a_daemon_writes_is_nobody_elses_to_read(start: Start) -> None:
    """LO-SYS-030, LO-SYS-031: whatever the umask it was started with."""
    process = start()
    process.port()
    modes = {path.name: path.stat().st_mode & 0o777 for path in process.state.rglob("*")}
    assert process.state.stat().st_mode & 0o777 == modes.pop("run") == 0o700
    assert {"token", "state.sqlite", "orchestratord.json", "orchestratord.lock"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_an_idle_socket_and_half_a_request_do_not_hold_up_a_stop(start: Start) -> None:
    """LO-SYS-025."""
    process = start()
    idle = socket.create_connection(("127.0.0.1", process.port()))
    half = socket.create_connection(("127.0.0.1", process.port()))
    half.sendall(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
    process.child.terminate()
    assert process.end()[0] == 0
    idle.close()
    half.close()


def test_what_is_logged_of_a_request_carries_its_correlation_id(start: Start) -> None:
    """LO-SYS-040, LO-SYS-041."""
    process = start()
    rest(get(process.port(), "/events-of-nobody", "X-Correlation-Id: c-77"))
    process.child.terminate()
    lines = [json.loads(line) for line in process.end()[1]]
    requests = [line for line in lines if line["event"] == "http.request"]
    assert [line["correlation_id"] for line in requests] == ["c-77"]


def test_sighup_is_survived_and_said(start: Start) -> None:
    process = start()
    port = process.port()
    process.child.send_signal(signal.SIGHUP)
    assert b" 200 " in rest(get(port, "/healthz"))
    process.child.terminate()
    code, lines = process.end()
    assert code == 0
    assert any(json.loads(line)["event"] == "daemon.reload_not_served" for line in lines)


def test_a_second_daemon_exits_75_and_leaves_the_first_alone(start: Start) -> None:
    """LO-SYS-020, LO-SYS-021."""
    first = start()
    port = first.port()
    code, line = start().said()
    assert code == 75
    assert line.startswith("orchestratord: ")
    assert "orchestratord.lock is held by another orchestratord" in line
    assert b" 200 " in rest(get(port, "/healthz"))
    assert RunFile.read(first.state, "orchestratord") is not None


def test_a_taken_port_exits_75_and_names_it(start: Start) -> None:
    """LO-SYS-020."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = start(f"orchestratord: {{port: {port}}}").said()
    assert code == 75
    assert f"127.0.0.1:{port} is in use" in line


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("nope: 1", {}, "nope: unknown key"),
        ("", {"LLORCH_NOPE": "1"}, "LLORCH_NOPE: no such setting"),
        ("", {"LLORCH_FAILPOINTS": "crash"}, "--test-mode"),
        ("orchestratord: {host: 203.0.113.1, port: 0}", {}, "is not loopback"),
        ("orchestratord: {host: no.such.invalid, port: 0}", {}, "is not loopback"),
        (
            PORT_ZERO + "auth: {tls: {cert: /no/cert.pem, key: /no/key.pem}}",
            {},
            "auth.tls: /no/cert.pem",
        ),
    ],
)
def test_a_bad_config_exits_78_with_one_line(
    start: Start, text: str, environ: dict[str, str], said: str
) -> None:
    """LO-SYS-012, LO-SYS-014, LO-SYS-015, LO-SYS-020, LO-SYS-027, LO-SYS-034."""
    process = start(text, **environ)
    code, line = process.said()
    assert (code, said in line) == (78, True), line
    assert not (process.state / "run" / "orchestratord.json").exists()


def test_damaged_state_exits_70_in_one_line(start: Start) -> None:
    """LO-SYS-020."""
    code, line = start("", SAMPLE_FAULT="damaged").said()
    assert code == 70
    assert line == "orchestratord: state.sqlite is damaged; restore the backup beside it"


def test_a_crash_in_the_background_ends_the_process_with_1(start: Start) -> None:
    """LO-SYS-020, LO-SYS-026."""
    process = start()
    rest(get(process.port(), "/fail"))
    code, line = process.said()
    assert code == 1
    assert "the engine room is on fire" in line


@pytest.mark.parametrize("fault", ["stuck", "hang"])
def test_a_stop_that_hangs_is_cut_at_its_deadline(start: Start, fault: str) -> None:
    """LO-SYS-025."""
    process = start(PORT_ZERO + "timeouts: {drain_ms: 0}", SAMPLE_FAULT=fault)
    stream = get(process.port(), "/events")
    while b"first" not in stream.recv(65536):
        pass
    before = time.monotonic()
    process.child.terminate()
    code, line = process.said()
    assert time.monotonic() - before < HARD_STOP_MARGIN_SECONDS + 2
    stream.close()
    assert code == 1
    assert "stopping took too long" in line


def test_a_thread_that_hangs_cannot_hold_up_the_exit(start: Start) -> None:
    text = PORT_ZERO + "timeouts: {drain_ms: 0, stop_grace_ms: 0}"
    process = start(text, SAMPLE_FAULT="thread")
    process.port()
    process.child.terminate()
    code, line = process.said()
    assert code == 1
    assert "hanging thread" in line


def test_a_killed_daemon_leaves_no_lock_and_its_address_is_replaced(start: Start) -> None:
    first = start()
    first.port()
    first.child.kill()
    first.end()
    second = start()
    assert b" 200 " in rest(get(second.port(), "/healthz"))


def test_the_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    """LO-SYS-021."""
    with daemon_lock(tmp_path, "x"):
        with pytest.raises(AlreadyRunning), daemon_lock(tmp_path, "x"):
            pass
    with daemon_lock(tmp_path, "x"):
        pass


def test_a_run_file_is_private_and_whole_or_absent(tmp_path: Path) -> None:
    """LO-SYS-022."""
    assert RunFile.read(tmp_path, "x") is None
    RunFile.write(tmp_path, "x", "http://127.0.0.1:1")
    path = tmp_path / "run" / "x.json"
    assert json.loads(path.read_text()) == {"url": "http://127.0.0.1:1", "pid": os.getpid()}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["x.json"]
    path.write_text('{"url":')
    assert RunFile.read(tmp_path, "x") is None
    RunFile.remove(tmp_path, "x")
    RunFile.remove(tmp_path, "x")
    assert RunFile.read(tmp_path, "x") is None
