"""What a real Triton is asked for its transcripts, and how it is started for that.

`LLORCH_TRITON` names its program; `ci/engines triton` makes it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.service.settings import child_environment
from test_harness.conformance.transcripts import Exchange, Question, ask
from test_harness.triton_models.repository import write_text_model
from worker_adapters.base import LaunchSpec
from worker_adapters.tests.ports import free_port
from worker_adapters.triton_launch import METRICS_PORT_AFTER, TritonLauncher

MODEL = "tiny"
START_S = 30.0
STOP_S = 10.0
POLL_S = 0.05
COUNTED = {"return_num_input_tokens": True, "return_num_output_tokens": True}


def _generate(name: str, prompt: str, **fields: Any) -> Question:
    body = {"text_input": prompt, "max_tokens": 3} | fields
    return Question(name, f"/v2/models/{MODEL}/generate_stream", body, has_key=False)


def _about(name: str, path: str) -> Question:
    return Question(name, path, has_key=False)


QUESTIONS = (
    _about("server", "/v2"),
    Question("index", "/v2/repository/index", {}, has_key=False),
    _about("model", f"/v2/models/{MODEL}"),
    _about("config", f"/v2/models/{MODEL}/config"),
    _generate("stream", "The river", **COUNTED),
    _generate("no-counts", "The river"),
    _generate("empty", "len=0"),
    _generate("error-first", "error"),
    _generate("error-later", "error=2"),
    _generate("too-long", "long=600"),
    _generate("wrong-type", "x", max_tokens="many"),
    Question("bad-json", f"/v2/models/{MODEL}/generate_stream", "{no json", has_key=False),
    Question("unknown-model", "/v2/models/nope/generate_stream", {}, has_key=False),
    Question("decoupled", f"/v2/models/{MODEL}/generate", {"text_input": "x"}, has_key=False),
    # The last one: the server takes half a minute to end after it.
    _generate("stub-died", "die"),
)
METRICS = _about("metrics", "/metrics")


def record(folder: Path) -> tuple[str, list[Exchange]]:
    """The version of the Triton that is named, and all its answers."""
    program = os.environ.get("LLORCH_TRITON")
    if not program:
        sys.exit("LLORCH_TRITON is not set; ci/engines triton makes what it names")
    write_text_model(folder / "models", MODEL)
    with _serving(program, folder) as port:
        exchanges = [ask(port + METRICS_PORT_AFTER, "", METRICS)]
        exchanges += [ask(port, "", question) for question in QUESTIONS]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2", timeout=5) as answer:
            version = json.load(answer)["version"]
    return f"Triton {version}", exchanges


@contextmanager
def _serving(program: str, folder: Path) -> Iterator[int]:
    """The HTTP port of a server whose model is ready; its process group is ended after."""
    spec = LaunchSpec(
        model_path=folder / "models",
        model_alias=MODEL,
        host="127.0.0.1",
        port=free_port(),
        ctx=512,
        slots=2,
        device_uuids=(),
        engine_args=(),
        api_key="",
        binary=program,
    )
    plan = TritonLauncher().plan(spec)
    process = subprocess.Popen(plan.argv, env=child_environment(plan.env), start_new_session=True)
    try:
        _until_ready(spec.port)
        yield spec.port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_S)


def _until_ready(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(POLL_S)
    raise TimeoutError("Triton does not become ready")
