"""Where equal bytes cannot be promised they are refused, and `prove` works where they can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import ErrorEnvelope
from llama_orch.determinism.verify import verify_file
from test_harness.determinism.conftest import llamacpp_pool
from test_harness.stack import Stack, child_environment, running_stack
from test_harness.task_client import TaskClient

pytestmark = pytest.mark.slow


def prove(stack: Stack, *options: str) -> subprocess.CompletedProcess[str]:
    """`llama-orch determinism prove` against the stack."""
    command = [sys.executable, "-m", "llama_orch", "determinism", "prove", "--url", stack.url]
    return subprocess.run(
        [*command, "--token-file", str(stack.state_dir / "token"), *options],
        env=child_environment() | {"HOME": str(stack.root), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_pool_that_decodes_several_tasks_at_once_refuses_strict(
    tmp_path: Path, models: Path
) -> None:
    """LO-DET-006, LO-DET-016: at admission, with the reason; best effort is served."""
    pool = llamacpp_pool("chat", models / "proven.gguf", replicas=1, slots=2)
    with running_stack(tmp_path, [pool]) as stack, TaskClient(stack) as client:
        stack.wait_serving("chat")
        told = client.get("/v1/capabilities").json()["pools"][0]
        assert told["strict"] is False
        assert "slots: 1" in told["strict_refusal"]
        asked = {"model": None, "pool_id": "chat", "max_tokens": 2}
        refused = client.post(determinism="strict", **asked)
        assert refused.status_code == 400
        envelope = ErrorEnvelope.model_validate_json(refused.content)
        assert envelope.code == "INVALID_PARAMS"
        assert envelope.details is not None
        assert "slots" in str(envelope.details["reason"])
        assert client.collect(client.accept(determinism="best_effort", **asked))[-1].name == "end"
        done = prove(stack, "--pool", "chat", "--out", str(tmp_path / "p.jsonl"))
        assert done.returncode == 1
        assert "pool chat does not promise equal bytes" in done.stderr
        assert not (tmp_path / "p.jsonl").exists()


def test_a_user_proves_his_own_pool(tmp_path: Path, models: Path) -> None:
    """LO-DET-011, LO-DET-017: one command, at rest and under load, with a control."""
    pools = [
        llamacpp_pool("chat", models / "proven.gguf", replicas=2),
        llamacpp_pool("other", models / "other.gguf", replicas=1),
    ]
    out = tmp_path / "proof.jsonl"
    with running_stack(tmp_path, pools) as stack:
        stack.wait_serving("chat", replicas=2)
        stack.wait_serving("other")
        options = ("--pool", "chat", "--max-tokens", "32", "--other-pool", "other")
        done = prove(stack, *options, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "ok     controls   8 differ as they must" in done.stdout
    header, judgement, sha256 = verify_file(out)
    assert judgement.proven
    assert done.stdout.splitlines()[-1] == f"proven: {sha256}"
    assert "round engine_restarted" in judgement.not_held
    assert header.request.max_tokens == 32
