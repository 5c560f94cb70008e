"""Wrong input: one clear line that names the thing and the remedy, and nothing left behind."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from test_harness.e2e.conftest import PoolFactory
from test_harness.stack import Daemon, DaemonName, Stack, child_environment, running_stack, wait_for
from test_harness.task_client import TaskClient

pytestmark = pytest.mark.slow

DAEMONS: tuple[DaemonName, ...] = ("orchestratord", "pool_managerd")


def refused(stack: Stack, name: DaemonName) -> tuple[int, str]:
    """Start a daemon that must end by itself; returns its exit code and its last line."""
    daemon = Daemon(name, stack.root, child_environment())
    code = daemon.process.wait(20)
    lines = daemon.logged().strip().split("\n")
    assert "Traceback" not in daemon.logged()
    assert not list((stack.state_dir / "run").glob("*.json"))
    return code, lines[-1]


@pytest.mark.parametrize("name", DAEMONS)
def test_an_unknown_key_is_named(tmp_path: Path, name: DaemonName) -> None:
    """LO-SYS-012: exit 78 and the path of the key."""
    code, line = refused(Stack(tmp_path, [], queue={"capasity": 3}), name)
    assert code == 78
    assert "queue.capasity" in line


@pytest.mark.parametrize("name", DAEMONS)
def test_a_setting_nothing_obeys_is_refused(tmp_path: Path, name: DaemonName) -> None:
    """LO-SYS-013: silence would be worse."""
    code, line = refused(Stack(tmp_path, [], artifacts={"max_bytes": 3}), name)
    assert code == 78
    assert "artifacts" in line


def test_a_bad_sampler_profile_is_named(tmp_path: Path) -> None:
    """LO-ORC-177: exit 78 and the path of the file."""
    stack = Stack(tmp_path, [])
    path = stack.state_dir / "sampler_profiles" / "calm-1.yaml"
    path.parent.mkdir(parents=True, mode=0o700)
    stack.state_dir.chmod(0o700)
    path.write_text("temperature: hot\n")
    code, line = refused(stack, "orchestratord")
    assert code == 78
    assert f"{path}: temperature: Input should be a valid number" in line


@pytest.mark.parametrize("name", DAEMONS)
def test_a_taken_port_is_named(tmp_path: Path, name: DaemonName) -> None:
    """LO-SYS-020, LO-SYS-027: exit 75."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        code, line = refused(Stack(tmp_path, [], **{name: {"port": port}}), name)
    assert code == 75
    assert str(port) in line


def test_a_second_daemon_on_the_same_state_is_refused_and_the_first_unhurt(tmp_path: Path) -> None:
    """LO-SYS-021: exit 75, one owner."""
    with running_stack(tmp_path, []) as stack:
        for name in DAEMONS:
            second = Daemon(name, stack.root, child_environment())
            assert second.process.wait(20) == 75
            with httpx2.Client(base_url=stack.daemons[name].url) as client:
                assert client.get("/healthz").status_code == 200


def test_a_missing_model_makes_one_pool_unavailable_and_hurts_no_other(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-POOL-013: 503 POOL_UNAVAILABLE names the file; the pool beside it serves."""
    missing: dict[str, Any] = {"id": "gone", "ref": "file:/nonexistent/model.gguf"}
    pools = [embedded_pool(id="broken", model=missing), embedded_pool()]
    with running_stack(tmp_path, pools) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            health = wait_for(
                lambda: (h := client.get("/v1/pools/broken/health").json())["last_error"] and h,
                "the missing file is noticed",
            )
            assert health["last_error"]["reason"] == "MODEL_MISSING"
            assert "/nonexistent/model.gguf" in health["last_error"]["message"]
            answer = client.post(model="gone")
            assert answer.status_code == 503
            assert answer.json()["code"] == "POOL_UNAVAILABLE"
            assert "/nonexistent/model.gguf" in answer.json()["message"]
            assert int(answer.headers["retry-after"]) >= 1
            assert client.collect(client.accept())[-1].name == "end"


def test_a_wrong_token_opens_no_route(tmp_path: Path) -> None:
    """LO-HTTP-001: 401 everywhere but on healthz and readyz."""
    with running_stack(tmp_path, []) as stack:
        for name in DAEMONS:
            url = stack.daemons[name].url
            with httpx2.Client(base_url=url, headers={"Authorization": "Bearer wrong"}) as client:
                assert client.get("/healthz").status_code == 200
                assert client.get("/readyz").status_code == 200
                for path in ("/metrics", "/v1/tasks", "/v1/pools", "/v1/snapshot", "/nothing"):
                    answer = client.get(path)
                    assert answer.status_code == 401, path
                    assert answer.json()["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, None),
        ({"model": "tiny", "prompt": "x"}, "max_tokens"),
        ({"model": "tiny", "max_tokens": 1}, "prompt"),
        ({"model": "tiny", "prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"model": "tiny", "prompt": "x", "max_tokens": 1, "n_discard": -1}, "n_discard"),
        ({"model": "tiny", "prompt": "x", "max_tokens": 1, "seed": None}, "seed"),
        (
            {"model": "tiny", "prompt": "x", "max_tokens": 1, "sampler_profile_version": "x-9"},
            "x-9",
        ),
        ({"model": "tiny", "inputs": ["x"], "workload": "embedding", "top_k": 1}, "top_k"),
        ({"model": "tiny", "inputs": ["x"], "workload": "rerank"}, "inputs"),
    ],
)
def test_a_malformed_task_is_refused_by_name(
    stack_without_pools: TaskClient, body: dict[str, Any], field: str | None
) -> None:
    """LO-HTTP-024: 400 INVALID_PARAMS whose message names the field; nothing is kept."""
    answer = stack_without_pools.raw_post(body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "INVALID_PARAMS"
    assert field is None or field in answer.json()["message"]
    assert stack_without_pools.get("/v1/tasks").json()["items"] == []


def test_an_unknown_model_is_refused_with_the_ones_there_are(
    stack_without_pools: TaskClient,
) -> None:
    """LO-ORC-007: 404 MODEL_UNKNOWN."""
    answer = stack_without_pools.post(model="qwen")
    assert answer.status_code == 404
    assert answer.json()["code"] == "MODEL_UNKNOWN"
    assert answer.headers["x-task-id"]


def test_more_context_than_a_slot_has_is_refused(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-008: 400 CONTEXT_EXCEEDED with both numbers, before anything is queued."""
    with running_stack(tmp_path, [embedded_pool()]) as stack, TaskClient(stack) as client:
        answer = client.post(max_tokens=100_000)
        assert answer.status_code == 400
        assert answer.json()["code"] == "CONTEXT_EXCEEDED"
        assert answer.json()["details"] == {"needed_tokens": 100_001, "ctx": 4096}


def test_a_full_queue_sheds_with_a_time_to_come_back(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-021: the bound is exact, and the refusal says when to try again."""
    pool = embedded_pool("endless")
    with running_stack(tmp_path, [pool], queue={"capacity": 3}) as stack:
        stack.wait_serving("chat")
        with TaskClient(stack) as client:
            running = client.accept(max_tokens=4000)
            next(iter(client.follow(running)))
            answers = [client.post() for _ in range(5)]
            assert [answer.status_code for answer in answers] == [202] * 3 + [429] * 2
            last = answers[-1]
            assert last.json()["code"] == "QUEUE_FULL"
            assert last.json()["policy_label"] == "reject"
            assert int(last.headers["retry-after"]) * 1000 >= int(last.headers["x-backoff-ms"]) > 0


def test_a_damaged_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """LO-ORC-097: exit 70, the message names the file."""
    with running_stack(tmp_path, []) as stack:
        assert stack.daemons["orchestratord"].stop(signal.SIGTERM) == 0
        database = stack.state_dir / "orchestratord.sqlite"
        database.write_bytes(b"not a database" * 100)
        daemon = Daemon("orchestratord", stack.root, child_environment())
        assert daemon.process.wait(20) == 70
        assert str(database) in daemon.logged()
        assert database.read_bytes() == b"not a database" * 100
