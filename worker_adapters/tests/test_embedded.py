"""The child process that serves a model: how it ends."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from contracts.service.settings import child_environment
from worker_adapters.embedded import SPLIT_KEY, EmbeddedExit
from worker_adapters.llamacpp_launch import EmbeddedLauncher
from worker_adapters.tests.conftest import KEY, running, spec_of
from worker_adapters.tests.ports import free_port

pytestmark = pytest.mark.slow


def end_of(argv: tuple[str, ...], **env: str) -> tuple[int, list[str]]:
    """Exit code and lines on stderr."""
    ended = subprocess.run(
        argv, env=child_environment(env), stderr=subprocess.PIPE, text=True, timeout=20
    )
    return ended.returncode, ended.stderr.splitlines()


def argv_for(model: Path, port: int) -> tuple[str, ...]:
    return EmbeddedLauncher().plan(spec_of(model, port)).argv


def test_a_missing_model_is_one_line_that_names_it(tmp_path: Path) -> None:
    code, lines = end_of(argv_for(tmp_path / "none.gguf", free_port()))
    assert code == EmbeddedExit.BAD_MODEL
    assert lines == [
        f"embedded engine: cannot read the model {tmp_path}/none.gguf: No such file or directory"
    ]


def test_a_file_that_is_no_model_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"#!/bin/sh\n")
    assert end_of(argv_for(path, free_port())) == (
        EmbeddedExit.BAD_MODEL,
        [f"embedded engine: {path} is not a GGUF model"],
    )


def test_a_damaged_model_ends_with_a_line_that_names_it(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes((models / "tiny.gguf").read_bytes()[:100_000])
    code, lines = end_of(argv_for(path, free_port()))
    assert code == EmbeddedExit.BAD_MODEL
    assert lines[-1].startswith(f"embedded engine: llama.cpp cannot load {path}")
    assert not any("Traceback" in line for line in lines)


def test_a_model_that_cannot_rank_is_one_line_with_the_remedy(models: Path) -> None:
    """LO-WRK-121: llama.cpp would serve numbers that rank nothing."""
    model = models / "tiny.gguf"
    argv = EmbeddedLauncher().plan(spec_of(model, free_port(), workload="rerank")).argv
    code, lines = end_of(argv)
    assert code == EmbeddedExit.UNFIT_MODEL
    assert len(lines) == 1
    assert f"{model} has no head to rank with: take a model" in lines[0]


def test_a_model_in_several_files_may_have_its_head_in_another_one(
    models: Path, tmp_path: Path
) -> None:
    """LO-WRK-121: its first file is loaded, and here the others are missing."""
    path = tmp_path / "m-00001-of-00002.gguf"
    key = struct.pack("<Q", len(SPLIT_KEY)) + SPLIT_KEY
    path.write_bytes((models / "tiny.gguf").read_bytes()[:100_000] + key)
    argv = EmbeddedLauncher().plan(spec_of(path, free_port(), workload="rerank")).argv
    code, lines = end_of(argv)
    assert code == EmbeddedExit.BAD_MODEL
    assert lines[-1].startswith(f"embedded engine: llama.cpp cannot load {path}")


def test_a_taken_port_ends_with_a_line_that_names_it(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, lines = end_of(argv_for(models / "tiny.gguf", port))
    assert code == EmbeddedExit.PORT_TAKEN
    assert lines[-1].startswith(f"embedded engine: port {port} on 127.0.0.1 is taken")


def test_a_missing_wheel_is_one_line_with_the_remedy(models: Path) -> None:
    without = "import sys; sys.modules['xllamacpp'] = None; from worker_adapters import embedded; "
    argv = argv_for(models / "tiny.gguf", free_port())[3:]
    program = (sys.executable, "-c", without + f"embedded.main({list(argv)!r})")
    assert end_of(program) == (
        EmbeddedExit.WHEEL_MISSING,
        ["embedded engine: xllamacpp is not installed: pip install 'llama-orch[embedded]'"],
    )


def test_a_bad_argument_is_a_usage_error(models: Path) -> None:
    code, lines = end_of((*argv_for(models / "tiny.gguf", free_port()), "--devices", "0"))
    assert code == EmbeddedExit.BAD_ARGUMENT
    assert "--devices" in lines[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(models: Path, tmp_path: Path, number: signal.Signals) -> None:
    with running(models / "tiny.gguf", tmp_path / "log") as engine:
        sent = time.monotonic()
        engine.process.send_signal(number)
        assert engine.process.wait(5) == EmbeddedExit.STOPPED
        assert time.monotonic() - sent < 1


def test_a_signal_ends_it_while_the_model_is_still_loading(models: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        argv_for(models / "tiny.gguf", port), env=child_environment(), stderr=subprocess.DEVNULL
    )
    while not listens(port):
        assert process.poll() is None
    process.terminate()
    assert process.wait(1) in (EmbeddedExit.STOPPED, -signal.SIGTERM)


def test_the_key_is_neither_in_argv_nor_in_the_log(models: Path, tmp_path: Path) -> None:
    """LO-WRK-011, LO-SYS-032."""
    log = tmp_path / "log"
    with running(models / "tiny.gguf", log) as engine:
        argv = Path(f"/proc/{engine.process.pid}/cmdline").read_bytes()
    assert KEY.encode() not in argv + log.read_bytes()


def test_it_outlives_the_process_that_started_it(models: Path) -> None:
    port = free_port()
    parent = (
        "import subprocess\n"
        f"child = subprocess.Popen({argv_for(models / 'tiny.gguf', port)!r},"
        " start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(child.pid)\n"
    )
    started = subprocess.run(
        [sys.executable, "-c", parent], env=child_environment(), stdout=subprocess.PIPE, timeout=20
    )
    orphan = psutil.Process(int(started.stdout))
    try:
        deadline = time.monotonic() + 20
        while not listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        orphan.terminate()
        orphan.wait(5)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
