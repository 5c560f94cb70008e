"""A real Triton as a pool of the product: found ready, asked, canceled, ended without a remnant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from test_harness.stack import Stack, running_stack, wait_for
from test_harness.task_client import TaskClient
from test_harness.triton_models.repository import write_text_model

PROGRAM = os.environ.get("LLORCH_TRITON")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PROGRAM, reason="LLORCH_TRITON is not set; ci/engines makes what it names"
    ),
]


def pool(models: Path) -> dict[str, Any]:
    return {
        "id": "chat",
        "engine": "triton",
        "model": {"id": "tiny", "ref": f"file:{models}"},
        "ctx": 512,
        "slots": 2,
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "binary", "path": PROGRAM},
    }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("triton")
    write_text_model(root / "models", "tiny", delay_ms=5)
    with running_stack(root, [pool(root / "models")]) as running:
        running.wait_serving("chat")
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[TaskClient]:
    with TaskClient(stack) as opened:
        yield opened


def test_a_task_is_served(client: TaskClient) -> None:
    """LO-WRK-156: with the model's own figures."""
    task_id = client.accept(prompt="The river", max_tokens=4)
    events = list(client.follow(task_id))
    end = events[-1]
    assert end.name == "end", end
    assert "".join(e.data["t"] for e in events if e.name == "token") == " w0 w1 w2 w3"
    assert (end.data["finish_reason"], end.data["tokens_in"]) == ("length", 2)
    assert client.task(task_id)["placement"]["engine_version"] == "2.51.0"


def test_what_its_model_cannot_is_a_wrong_parameter(client: TaskClient) -> None:
    """LO-WRK-157: at the door, or by the adapter at the latest."""
    answer = client.post(top_p=0.5)
    if answer.status_code == 202:
        last = list(client.follow(answer.json()["task_id"]))[-1]
        assert (last.name, last.data["code"]) == ("error", "INVALID_PARAMS")
    else:
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_PARAMS")


def test_a_cancel_stops_the_model(stack: Stack, client: TaskClient) -> None:
    """LO-WRK-094: seen from the model's side."""
    task_id = client.accept(max_tokens=400)
    for event in client.follow(task_id):
        if event.name == "token":
            assert client.cancel(task_id) == 204
    logs = stack.state_dir / "logs"
    wait_for(
        lambda: any("CANCELED" in f.read_text() for f in logs.rglob("*") if f.is_file()),
        "the model notes that it was canceled",
    )


def test_its_processes_end_with_it(tmp_path: Path) -> None:
    """LO-WRK-160: those of its models too."""
    write_text_model(tmp_path / "models", "tiny")
    with running_stack(tmp_path, [pool(tmp_path / "models")]) as running:
        running.wait_serving("chat")
        (leader,) = running.pids_of_replicas("chat")
        assert len(members(leader)) >= 2
    assert members(leader) == []


def members(group: int) -> list[int]:
    """Processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
