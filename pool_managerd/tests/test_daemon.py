"""The daemon as a process, over real llama.cpp and stand-ins."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.ids import new_uuid
from contracts.pools import Snapshot
from pool_managerd.procfs import session_members
from test_harness.stack import Stack, wait_for
from test_harness.supervised import fake_command

pytestmark = pytest.mark.slow
CARD = {"index": 0, "uuid": "GPU-a", "name": "Card", "total_bytes": 2**34, "used_bytes": 10}


def fake_pool(root: Path, *options: str, **changes: Any) -> dict[str, Any]:
    model = root / "any.gguf"
    model.write_bytes(b"any file will do")
    return {
        "id": "fake",
        "engine": "llamacpp",
        "model": {"id": "m", "ref": f"file:{model}"},
        "replicas": [{"devices": []}],
        "provisioning": {"mode": "command", "command": fake_command(*options)},
        "restart": {"base_ms": 20},
    } | changes


@pytest.fixture
def stacks() -> Iterator[list[Stack]]:
    started: list[Stack] = []
    yield started
    for stack in started:
        stack.stop()


def started(stacks: list[Stack], root: Path, *pools: dict[str, Any], **sections: Any) -> Stack:
    stack = Stack(root, list(pools), **sections)
    stacks.append(stack)
    stack.start("pool_managerd").wait_ready()
    return stack


def snapshot(stack: Stack) -> Snapshot:
    with stack.client("pool_managerd") as client:
        return Snapshot.model_validate_json(client.get("/v1/snapshot").content)


def ready(stack: Stack, pool: int = 0) -> bool:
    return snapshot(stack).pools[pool].ready


def last_error(stack: Stack, pool: int = 0) -> str:
    wait_for(lambda: snapshot(stack).pools[pool].last_error, "the pool fails")
    error = snapshot(stack).pools[pool].last_error
    assert error is not None
    return f"{error.reason.value}: {error.message}"


def lease_body(**changes: Any) -> dict[str, Any]:
    return {
        "replica_id": "fake/0",
        "task_id": new_uuid(),
        "epoch": 1,
        "ttl_ms": 1_000,
        "holder": "11111111-1111-4111-8111-111111111111",
    } | changes


def test_real_llama_cpp_serves_and_is_leased(stacks: list[Stack], tmp_path: Path) -> None:
    """LO-POOL-030, LO-POOL-013, LO-WRK-013: and a pool without its model hurts nobody."""
    pytest.importorskip("xllamacpp", reason="the extra `embedded` is not installed")
    model = tmp_path / "tiny.gguf"
    subprocess.run([sys.executable, "-m", "worker_adapters.tiny_gguf", str(model)], check=True)
    chat = {
        "id": "chat",
        "engine": "llamacpp",
        "model": {"id": "tiny", "ref": f"file:{model}"},
        "ctx": 256,
        "slots": 2,
        "provisioning": {"mode": "embedded"},
    }
    gone = chat | {"id": "gone", "model": {"id": "gone", "ref": "file:/no/such.gguf"}}
    stack = started(stacks, tmp_path, chat, gone)
    wait_for(lambda: ready(stack), "the embedded engine serves")
    wait_for(lambda: snapshot(stack).pools[0].replicas[0].model_digest, "the digest is known")
    replica = snapshot(stack).pools[0].replicas[0]
    assert (replica.engine_version or "").startswith("xllamacpp ")
    assert (replica.slots_total, replica.ctx) == (2, 256)
    assert "MODEL_MISSING: pools[1].model.ref: no such file: /no/such.gguf" in last_error(stack, 1)
    with stack.client("pool_managerd") as client:
        answer = client.post("/v1/leases", json=lease_body(replica_id="chat/0"))
        assert answer.status_code == 201
        lease = answer.json()
        key = {"Authorization": f"Bearer {lease['api_key']}"}
        body = {"prompt": "The", "n_predict": 3}
        completion = httpx2.post(f"{lease['base_url']}/completion", json=body, headers=key)
        assert completion.json()["tokens_predicted"] == 3
        assert httpx2.post(f"{lease['base_url']}/completion", json=body).status_code == 401


def test_an_engine_can_be_asked_without_a_lease_while_it_is_ready(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-063."""
    stack = started(stacks, tmp_path, fake_pool(tmp_path, "--fault", "slow-start-1500"))
    path = "/v1/replicas/fake/0/endpoint"
    with stack.client("pool_managerd") as client:
        assert client.get(path).status_code == 409
        assert client.get("/v1/replicas/fake/7/endpoint").status_code == 404
        wait_for(lambda: ready(stack), "the stand-in serves")
        found = client.get(path).json()
        key = {"Authorization": f"Bearer {found['api_key']}"}
        counted = httpx2.post(
            f"{found['base_url']}/tokenize", json={"content": "a b c"}, headers=key
        )
        assert len(counted.json()["tokens"]) == 3
        assert found["api_key"] not in client.get("/v1/snapshot").text
        assert client.post("/v1/leases", json=lease_body()).status_code == 201, "no slot was taken"


def test_leases_are_given_renewed_refused_and_given_back(
    stacks: list[Stack], tmp_path: Path
) -> None:
    stack = started(stacks, tmp_path, fake_pool(tmp_path))
    wait_for(lambda: ready(stack), "the stand-in serves")
    body = lease_body()
    with stack.client("pool_managerd") as client:
        lease = client.post("/v1/leases", json=body).json()
        assert client.post("/v1/leases", json=body).json() == lease
        refused = client.post("/v1/leases", json=lease_body())
        assert (refused.status_code, refused.json()["details"]) == (409, {"reason": "no_free_slot"})
        path = f"/v1/leases/{lease['lease_id']}"
        assert client.put(path, json=body).json() == lease
        assert snapshot(stack).pools[0].replicas[0].slots_used == 1
        assert [client.delete(path).status_code for _ in range(2)] == [204, 204]
        assert client.put(path, json=body).json() == lease
        wait_for(lambda: not snapshot(stack).pools[0].replicas[0].slots_used, "the TTL passes")
        assert client.delete("/v1/leases/not-a-uuid").status_code == 400
        unknown = client.post("/v1/leases", json=lease_body(replica_id="fake/9"))
        assert unknown.status_code == 404
        assert client.get("/v1/pools/fake/health").json()["ready"]
        assert client.get("/v1/pools/none/health").status_code == 404
        metrics = client.get("/metrics").text
        assert 'replica_state{pool_id="fake",replica_id="fake/0",state="ready"} 1.0' in metrics


def test_a_replica_that_dies_takes_its_leases_with_it(stacks: list[Stack], tmp_path: Path) -> None:
    stack = started(stacks, tmp_path, fake_pool(tmp_path, restart={"base_ms": 600_000}))
    wait_for(lambda: ready(stack), "the stand-in serves")
    with stack.client("pool_managerd") as client:
        body = lease_body(ttl_ms=600_000)
        lease = client.post("/v1/leases", json=body).json()
        pid = snapshot(stack).pools[0].replicas[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not snapshot(stack).pools[0].replicas[0].slots_used, "the lease is void")
        refused = client.put(f"/v1/leases/{lease['lease_id']}", json=body)
        assert (refused.status_code, refused.json()["details"]) == (409, {"reason": "not_ready"})


def test_a_poison_task_does_not_open_the_breaker_and_other_deaths_do(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-071, LO-POOL-072."""
    restart = {"base_ms": 10, "cap_ms": 600_000, "intensity": 2, "window_ms": 600_000}
    stack = started(stacks, tmp_path, fake_pool(tmp_path, "--fault", "poison", restart=restart))
    poison = new_uuid()
    for epoch, task_id in enumerate((poison, poison, poison, new_uuid()), start=1):
        wait_for(lambda: ready(stack), "the stand-in serves")
        assert snapshot(stack).pools[0].breaker == "closed"
        die_of(stack, lease_body(task_id=task_id, epoch=epoch, ttl_ms=600_000))
    wait_for(lambda: snapshot(stack).pools[0].breaker == "open", "the breaker opens")
    assert snapshot(stack).pools[0].restarts == 3


def die_of(stack: Stack, body: dict[str, Any]) -> None:
    """Take a lease, kill the engine by a prompt, and give the lease back at once."""
    restarts = snapshot(stack).pools[0].restarts
    with stack.client("pool_managerd") as client:
        lease = client.post("/v1/leases", json=body).json()
        key = {"Authorization": f"Bearer {lease['api_key']}"}
        with pytest.raises(httpx2.TransportError):
            httpx2.post(f"{lease['base_url']}/completion", json={"prompt": "POISON"}, headers=key)
        client.delete(f"/v1/leases/{lease['lease_id']}")
    wait_for(
        lambda: not ready(stack) or snapshot(stack).pools[0].restarts > restarts, "it is missed"
    )


def test_a_watch_tells_of_a_death_and_ends_with_the_daemon(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-061, LO-POOL-012."""
    stack = started(stacks, tmp_path, fake_pool(tmp_path))
    wait_for(lambda: ready(stack), "the stand-in serves")
    pid = snapshot(stack).pools[0].replicas[0].pid
    assert pid is not None
    versions, states, lines = [], [], []
    with (
        stack.client("pool_managerd") as client,
        client.stream("GET", "/v1/watch") as stream,
    ):
        for line in stream.iter_lines():
            lines.append(line)
            if not line.startswith("data:"):
                continue
            seen = json.loads(line.removeprefix("data:"))
            versions.append(seen["version"])
            states.append(seen["pools"][0]["replicas"][0]["state"])
            if len(versions) == 1:
                os.kill(pid, signal.SIGKILL)
            elif states[-1] == "ready" and "starting" in states:
                stack.daemons["pool_managerd"].process.send_signal(signal.SIGTERM)
    assert versions == sorted(set(versions))
    assert ": shutting down" in lines
    assert stack.daemons["pool_managerd"].stop() == 0
    assert not (stack.state_dir / "run" / "pool_managerd.json").exists()
    assert list((stack.state_dir / "run" / "replicas").iterdir()) == []


def test_a_stop_takes_no_longer_than_the_grace_and_leaves_no_process(
    stacks: list[Stack], tmp_path: Path
) -> None:
    pool = fake_pool(tmp_path, "--fault", "ignore-term", replicas=[{"devices": []}] * 3)
    stack = started(stacks, tmp_path, pool, timeouts={"stop_grace_ms": 500})
    wait_for(lambda: ready(stack), "the stand-ins serve")
    pids = [replica.pid for replica in snapshot(stack).pools[0].replicas]
    before = time.monotonic()
    assert stack.daemons["pool_managerd"].stop() == 0
    assert time.monotonic() - before < 2.5
    assert not any(session_members(pid) for pid in pids if pid)


def test_engines_outlive_a_killed_manager_and_the_next_one_takes_them_back(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-010, LO-POOL-009, LO-POOL-150: the same process, and no second one."""
    stack = started(stacks, tmp_path, fake_pool(tmp_path))
    wait_for(lambda: ready(stack), "the stand-in serves")
    before = snapshot(stack).pools[0].replicas[0]
    assert before.pid is not None
    stack.daemons["pool_managerd"].stop(signal.SIGKILL)
    stack.start("pool_managerd").wait_ready()
    wait_for(lambda: ready(stack), "it is taken back")
    after = snapshot(stack).pools[0].replicas[0]
    assert (after.pid, after.base_url) == (before.pid, before.base_url)
    assert session_members(before.pid) == [before.pid]
    assert "replica.adopted" in stack.daemons["pool_managerd"].logged()


def test_an_engine_of_a_launch_that_is_not_wanted_any_more_is_ended(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-010: the configuration was changed while no manager ran."""
    stack = started(stacks, tmp_path, fake_pool(tmp_path))
    wait_for(lambda: ready(stack), "the stand-in serves")
    orphan = snapshot(stack).pools[0].replicas[0].pid
    assert orphan is not None
    stack.daemons["pool_managerd"].stop(signal.SIGKILL)
    stack.configure(pools=[fake_pool(tmp_path) | {"ctx": 200}])
    stack.start("pool_managerd").wait_ready()
    assert session_members(orphan) == []
    wait_for(lambda: ready(stack), "a new one serves")
    assert "orphan.ended" in stack.daemons["pool_managerd"].logged()


def test_a_stranger_on_the_port_of_an_engine_that_was_left_is_not_trusted(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-150, LO-POOL-005: the engine lives, and its port is somebody else's."""
    stack = started(stacks, tmp_path, fake_pool(tmp_path, "--fault", "deaf-after-1"))
    wait_for(lambda: ready(stack), "the stand-in serves")
    left = snapshot(stack).pools[0].replicas[0]
    assert left.pid is not None
    assert left.base_url is not None
    stack.daemons["pool_managerd"].stop(signal.SIGKILL)
    port = left.base_url.rpartition(":")[2]
    argv = [sys.executable, "-m", "test_harness.fake_engines.llamacpp", "--port", port]
    wait_for(lambda: is_refused(port), "it has closed its port")
    stranger = subprocess.Popen([*argv, "--fault", "wrong-identity"])
    try:
        wait_for(lambda: not is_refused(port), "the stranger listens")
        stack.start("pool_managerd").wait_ready()
        assert last_error(stack).startswith("IDENTITY_MISMATCH")
        wait_for(lambda: ready(stack), "a new engine serves")
        assert snapshot(stack).pools[0].replicas[0].base_url != left.base_url
        assert not session_members(left.pid)
        metrics = httpx2.get(f"{left.base_url}/metrics", trust_env=False).text
        assert "tokens_predicted_total 0" in metrics
    finally:
        stranger.kill()
        stranger.wait()


def is_refused(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_a_replica_is_stopped_only_when_the_memory_of_its_card_is_back(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-159: P-3, with a driver that takes a second and a half."""
    cards = tmp_path / "gpus.json"

    def show(used: int, *pids: int) -> None:
        held = [{"pid": pid, "used_bytes": used} for pid in pids]
        fresh = cards.with_suffix(".new")
        card = CARD | {"total_bytes": 2**34, "used_bytes": used, "processes": held}
        fresh.write_text(json.dumps({"devices": [card]}))
        fresh.rename(cards)

    show(0)
    gpus = {"source": "file", "file": str(cards), "sample_ms": 50}
    pool = fake_pool(tmp_path, replicas=[{"devices": [0]}])
    stack = started(stacks, tmp_path, pool, gpus=gpus)
    wait_for(lambda: ready(stack), "the stand-in serves")
    pid = snapshot(stack).pools[0].replicas[0].pid
    assert pid is not None
    show(2**33, pid)
    wait_for(lambda: snapshot(stack).devices[0].used_bytes == 2**33, "its memory is seen")
    daemon = stack.daemons["pool_managerd"].process
    daemon.terminate()
    wait_for(lambda: not session_members(pid), "its processes end")
    time.sleep(1.5)
    assert daemon.poll() is None
    show(0)
    assert daemon.wait(10) == 0


def test_devices_are_resolved_or_refused_by_the_name_of_their_key(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-043, LO-POOL-035, LO-POOL-001, LO-SYS-035."""
    gpus = tmp_path / "gpus.json"
    gpus.write_text(json.dumps({"devices": [CARD]}))
    replicas: list[dict[str, Any]] = [{"devices": [0]}, {"devices": ["GPU-z"]}, {}]
    pool = fake_pool(tmp_path, replicas=replicas)
    stack = started(stacks, tmp_path, pool, gpus={"source": "file", "file": str(gpus)})
    wait_for(lambda: ready(stack), "the stand-in serves")
    first, second, third = snapshot(stack).pools[0].replicas
    names = [replica.replica_id for replica in (first, second, third)]
    assert names == ["fake/0", "fake/1", "fake/2"]
    assert first.devices == ("GPU-a",)
    environ = Path(f"/proc/{first.pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=GPU-a" in environ
    assert not any(line.startswith(b"LLORCH_") for line in environ)
    for index, replica in ((1, second), (2, third)):
        assert replica.last_error is not None
        assert replica.last_error.reason == "BAD_ARGUMENT"
        assert f"pools[0].replicas[{index}].devices: " in replica.last_error.message
    assert [card.uuid for card in snapshot(stack).devices] == ["GPU-a"]


def test_an_unknown_placeholder_ends_the_daemon_with_78(
    stacks: list[Stack], tmp_path: Path
) -> None:
    stack = Stack(tmp_path, [fake_pool(tmp_path, "{prot}")])
    stacks.append(stack)
    daemon = stack.start("pool_managerd")
    assert daemon.process.wait(20) == 78
    assert "unknown placeholder {prot}" in daemon.logged()
    assert "pools[0].provisioning" in daemon.logged()


def test_a_crash_loop_goes_on_where_it_was_after_a_restart_of_the_manager(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-134: the breaker stays open, and the restarts are told."""
    restart = {"base_ms": 20, "cap_ms": 60_000, "intensity": 3}
    pool = fake_pool(tmp_path, "--fault", "die-at-start", restart=restart)
    stack = started(stacks, tmp_path, pool)
    wait_for(lambda: snapshot(stack).pools[0].breaker == "open", "the breaker opens")
    told = snapshot(stack).pools[0].restarts
    time.sleep(0.2)
    stack.daemons["pool_managerd"].stop(signal.SIGKILL)
    stack.start("pool_managerd").wait_ready()
    wait_for(lambda: snapshot(stack).pools[0].replicas[0].state == "failed", "it waits on")
    pool_now = snapshot(stack).pools[0]
    assert (pool_now.breaker, pool_now.restarts) == ("open", told)


def test_nothing_is_started_on_a_card_that_is_lost(stacks: list[Stack], tmp_path: Path) -> None:
    """LO-POOL-024: Xid 79, and the card has fallen off the bus."""
    cards = tmp_path / "gpus.json"
    cards.write_text(json.dumps({"devices": [CARD | {"xid": 79, "total_bytes": 2**34}]}))
    gpus = {"source": "file", "file": str(cards)}
    stack = started(stacks, tmp_path, fake_pool(tmp_path, replicas=[{"devices": [0]}]), gpus=gpus)
    assert last_error(stack).startswith("GPU_LOST: GPU 0 (Card)")
    assert snapshot(stack).pools[0].replicas[0].pid is None


def test_a_stop_that_comes_before_an_engine_is_taken_back_ends_it(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-012, LO-POOL-150: at once after the run file is there."""
    stack = started(stacks, tmp_path, fake_pool(tmp_path))
    wait_for(lambda: ready(stack), "the stand-in serves")
    left = snapshot(stack).pools[0].replicas[0].pid
    assert left is not None
    stack.daemons["pool_managerd"].stop(signal.SIGKILL)
    again = stack.start("pool_managerd")
    assert again.url
    assert again.stop() == 0
    assert not session_members(left)


def test_an_engine_that_serves_off_its_card_is_told_degraded(
    stacks: list[Stack], tmp_path: Path
) -> None:
    """LO-POOL-086: it serves, and another process holds all the memory of its card."""
    cards = tmp_path / "gpus.json"
    others = [{"pid": os.getpid(), "used_bytes": 2**30}]
    cards.write_text(json.dumps({"devices": [CARD | {"used_bytes": 2**30, "processes": others}]}))
    gpus = {"source": "file", "file": str(cards), "sample_ms": 50}
    stack = started(stacks, tmp_path, fake_pool(tmp_path, replicas=[{"devices": [0]}]), gpus=gpus)
    wait_for(lambda: snapshot(stack).pools[0].degraded, "it is told")
    pool = snapshot(stack).pools[0]
    assert pool.ready
    why = pool.replicas[0].degraded
    assert why is not None
    assert "holds no memory on GPU 0 (Card): it computes on the CPU" in why
