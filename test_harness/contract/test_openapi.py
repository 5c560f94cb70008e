"""Both daemons keep the promises of their own OpenAPI documents, under fuzzing on a real port."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from test_harness.stack import DaemonName, Stack, child_environment, running_stack, wait_for

pytestmark = pytest.mark.slow

DOCUMENTS = Path(__file__).parents[2] / "contracts" / "openapi"
ENDLESS = {"orchestratord": ["streamTask"], "pool_managerd": ["watchSnapshots"]}
"""Operations that answer for as long as the client stays; they are tested on a port elsewhere."""
CHANGES = ("drainPool", "reloadPool")
"""Operations after which a pool takes no work."""
REACHED = {
    "orchestratord": ("POST", "/v1/tasks", 202),
    "pool_managerd": ("POST", "/v1/leases", 201),
}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
)
FUZZ_DEADLINE_S = 240


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Daemons over a fast stand-in engine, so that fuzzed tasks are admitted and end."""
    root = tmp_path_factory.mktemp("fuzz")
    model = root / "model.bin"
    model.write_bytes(b"any file will do")
    engine = [sys.executable, "-m", "test_harness.fake_engines.llamacpp", "--port", "{port}"]
    pool = {
        "id": "chat",
        "engine": "llamacpp",
        "model": {"id": "tiny", "ref": f"file:{model}"},
        "ctx": 4096,
        "slots": 8,
        "provisioning": {
            "mode": "command",
            "command": [*engine, "--slots", "{slots}", "--ctx", "{ctx}", "--tokens", "4"],
        },
    }
    with running_stack(root, [pool], queue={"capacity": 100_000}) as running:
        running.wait_serving("chat")
        yield running


@pytest.mark.parametrize("name", ["orchestratord", "pool_managerd"])
def test_no_answer_contradicts_the_document(stack: Stack, name: DaemonName, tmp_path: Path) -> None:
    """LO-HTTP-061: no server error, no undocumented status, no answer off its schema."""
    document = json.loads((DOCUMENTS / f"{name}.json").read_text())
    _fuzz(stack, name, document, tmp_path, examples=30)
    _resume(stack)
    answered = _fuzz(stack, name, _aimed(document), tmp_path, examples=60, spared=CHANGES)
    assert answered[REACHED[name]] > 10, "the fuzzing got past the door"


def _resume(stack: Stack) -> None:
    """Undo what fuzzing did to the pool."""
    with stack.client("pool_managerd") as client:
        wait_for(
            lambda: client.post("/v1/pools/chat/resume").status_code == 202, "it can be resumed"
        )
    stack.wait_serving("chat")


def _fuzz(
    stack: Stack,
    name: DaemonName,
    document: dict[str, Any],
    folder: Path,
    *,
    examples: int,
    spared: Sequence[str] = (),
) -> Counter[tuple[str, str, int]]:
    """Fuzz one daemon by a document; returns how often each success was answered."""
    source, report = folder / "openapi.json", folder / "report.har"
    source.write_text(json.dumps(document))
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(source)),
            *("--url", stack.daemons[name].url, "--seed", "7", "--max-examples", str(examples)),
            *("--header", f"Authorization: Bearer {stack.token}"),
            *("--checks", ",".join(CHECKS), "--no-color", "--warnings", "off"),
            *("--generation-database", "none", "--continue-on-failure"),
            *("--report", "har", "--report-har-path", str(report)),
            *(f"--exclude-operation-id={operation}" for operation in (*ENDLESS[name], *spared)),
        ],
        cwd=folder,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=FUZZ_DEADLINE_S,
    )
    assert run.returncode == 0, run.stdout[-12_000:] + run.stderr[-2_000:]
    return Counter(
        (entry["request"]["method"], urlsplit(entry["request"]["url"]).path, status)
        for entry in json.loads(report.read_text())["log"]["entries"]
        if (status := entry["response"]["status"]) < 300
    )


def _aimed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its names narrowed to what is served, so that fuzzing gets past 404."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["security"] = []  # else most cases try tokens of their own
    schemas = document["components"]["schemas"]
    if "TaskRequest" in schemas:
        fields = schemas["TaskRequest"]["properties"]
        served = (
            "task_id",
            "prompt",
            "priority",
            "seed",
            "temperature",
            "top_p",
            "stop",
            "metadata",
        )
        completion = {
            "type": "object",
            "properties": {name: fields[name] for name in served}
            | {"model": {"const": "tiny"}, "max_tokens": fields["max_tokens"] | {"maximum": 64}},
            "required": ["model", "prompt", "max_tokens"],
            "additionalProperties": False,
        }
        schemas["TaskRequest"] = completion
    if "LeaseRequest" in schemas:
        schemas["LeaseRequest"]["properties"]["replica_id"] = {"const": "chat/0"}
    return document
