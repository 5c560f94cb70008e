"""A haiku of this minute, end to end.

    REQUIRE_REAL_LLAMA=1 LLORCH_HAIKU_MODEL=FILE.gguf pytest test_harness/e2e_haiku
    ... LLORCH_URL=http://127.0.0.1:8700 LLORCH_HAIKU_POOL=default   of a running instance

Without the first, the same is done with a generated model, which writes random words:
that proves the machinery, and is not the real thing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from test_harness.e2e_haiku.asking import Instance, ask, of_running, of_stack
from test_harness.e2e_haiku.checker import findings
from test_harness.stack import running_stack
from test_harness.supervised import fake_command
from test_harness.task_client import text_of
from worker_adapters.tiny_gguf import write_model

pytestmark = pytest.mark.slow

REAL = os.environ.get("REQUIRE_REAL_LLAMA") == "1"
MODEL = os.environ.get("LLORCH_HAIKU_MODEL")
URL = os.environ.get("LLORCH_URL")
POOL = os.environ.get("LLORCH_HAIKU_POOL", "default")


def pool_of(model: Path, **keys: Any) -> dict[str, Any]:
    return {
        "id": POOL,
        "engine": "llamacpp",
        "model": {"id": "haiku", "ref": f"file:{model}"},
        "ctx": 2048,
        "slots": 1,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "embedded"},
    } | keys


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    if REAL and MODEL is None:
        pytest.fail("REQUIRE_REAL_LLAMA=1 needs LLORCH_HAIKU_MODEL, the path of your GGUF file")
    model = Path(MODEL) if REAL and MODEL is not None else tmp_path / "random.gguf"
    if not REAL:
        # Slow enough that the lease is seen while it speaks.
        write_model(model, "demo")
    if REAL and URL is not None:
        with of_running(URL, POOL, model) as running:
            yield running
        return
    with running_stack(tmp_path, [pool_of(model)]) as stack:
        stack.wait_serving(POOL)
        with of_stack(stack, POOL, model) as started:
            yield started


def test_a_haiku_of_this_minute(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    """LO-DET-020, LO-DET-021, LO-DET-022."""
    facts = ask(instance, max_tokens=512 if REAL else 32)
    with capsys.disabled():
        if REAL:
            print(f"\n{text_of(list(facts.events)).strip()}")
        else:
            print("\nnot the real thing: a random model; set REQUIRE_REAL_LLAMA=1")
    assert findings(facts, words=REAL) == []


def test_a_stand_in_engine_is_found(tmp_path: Path) -> None:
    """LO-DET-023: over the same model file, by the book otherwise."""
    model = tmp_path / "tiny.gguf"
    write_model(model, "tiny")
    provisioning = {"mode": "command", "command": fake_command("--token-ms", "20")}
    with running_stack(tmp_path, [pool_of(model, provisioning=provisioning)]) as stack:
        stack.wait_serving(POOL)
        with of_stack(stack, POOL, model) as started:
            found = findings(ask(started, max_tokens=20), words=True)
    assert any("a stand-in engine answered" in each for each in found), found
    assert any("lacks the nonce" in each for each in found), found
    assert sys.executable in next(each for each in found if "stand-in" in each)
