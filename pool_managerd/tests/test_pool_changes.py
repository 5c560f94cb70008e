"""Drain, resume, reload and a changed configuration, over real processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.ids import new_uuid
from contracts.pools import PoolView, ReloadState, ReplicaState, Snapshot
from pool_managerd.procfs import session_members
from test_harness.stack import Stack, wait_for

pytestmark = pytest.mark.slow
HOLDER = "11111111-1111-4111-8111-111111111111"
QUICK = {"probation_ms": 300, "start_ms": 10_000}

# A stand-in that misbehaves as the name of its model file says; `mortal` dies after 2 s.
BY_MODEL = (
    "import os,sys;model,*argv=sys.argv[1:];name=os.path.basename(model);"
    "fault=[] if name.startswith(('good','mortal')) else ['--fault',name];"
    "mortal=['timeout','--foreground','2'] if name=='mortal' else [];"
    "argv=[*mortal,sys.executable,'-m','test_harness.fake_engines.llamacpp',*argv,*fault];"
    "os.execvp(argv[0],argv)"
)


class Pools:
    """pool_managerd over a directory of models that are named for their faults."""

    def __init__(self, root: Path, pools: list[dict[str, Any]] | None = None, **sections: Any):
        self.root = root
        sections = {"supervision": QUICK} | sections
        self.stack = Stack(root, pools or [self.pool()], **sections)
        self.stack.start("pool_managerd").wait_ready()

    def model(self, name: str) -> str:
        path = self.root / name
        path.write_bytes(b"any file will do")
        return f"file:{path}"

    def pool(self, pool_id: str = "p", model: str = "good", **changes: Any) -> dict[str, Any]:
        command = [sys.executable, "-c", BY_MODEL, "{model}", "--port", "{port}"]
        return {
            "id": pool_id,
            "engine": "llamacpp",
            "model": {"id": "m", "ref": self.model(model)},
            "replicas": [{"devices": []}],
            "provisioning": {"mode": "command", "command": [*command, "--slots", "{slots}"]},
            "restart": {"base_ms": 20},
        } | changes

    def view(self, place: int = 0) -> PoolView:
        with self.stack.client("pool_managerd") as client:
            return Snapshot.model_validate_json(client.get("/v1/snapshot").content).pools[place]

    def post(self, change: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        with self.stack.client("pool_managerd") as client:
            return client.post(f"/v1/pools/p/{change}", json=body or {})

    def reload(self, model: str, **fields: Any) -> httpx2.Response:
        return self.post("reload", {"new_model_ref": self.model(model), **fields})

    def lease(self, replica_id: str) -> httpx2.Response:
        body = {"replica_id": replica_id, "task_id": new_uuid(), "epoch": 1}
        with self.stack.client("pool_managerd") as client:
            return client.post("/v1/leases", json=body | {"ttl_ms": 60_000, "holder": HOLDER})

    def release(self, lease: httpx2.Response) -> None:
        with self.stack.client("pool_managerd") as client:
            client.delete(f"/v1/leases/{lease.json()['lease_id']}")

    def until_ready(self, place: int = 0) -> PoolView:
        wait_for(lambda: self.view(place).ready, "the pool is ready")
        return self.view(place)

    def until_reloaded(self) -> PoolView:
        def over() -> bool:
            reload = self.view().reload
            return reload is not None and reload.state is not ReloadState.RUNNING

        wait_for(over, "the reload is over")
        return self.view()


@pytest.fixture
def pools(tmp_path: Path) -> Iterator[Pools]:
    pools = Pools(tmp_path)
    pools.until_ready()
    yield pools
    pools.stack.stop()


def test_a_pool_that_drains_gives_no_lease_and_one_that_is_resumed_does(pools: Pools) -> None:
    """LO-POOL-160, LO-POOL-161."""
    held = pools.lease("p/0")
    answer = pools.post("drain", {"deadline_ms": 60_000})
    assert answer.status_code == 202
    assert answer.json()["draining"]
    view = pools.view()
    assert (view.draining, view.ready, view.replicas[0].state) == (True, False, "draining")
    assert view.replicas[0].cut_at_ms == answer.json()["cut_at_ms"]
    assert pools.lease("p/0").status_code == 409
    assert view.replicas[0].slots_used == 1
    pools.release(held)
    pid = view.replicas[0].pid
    assert pools.post("resume").status_code == 202
    assert pools.lease("p/0").status_code == 201
    assert pools.view().replicas[0].pid == pid


def test_a_lease_that_outlives_the_deadline_of_a_drain_is_ended(pools: Pools) -> None:
    """LO-POOL-162."""
    assert pools.lease("p/0").status_code == 201
    pools.post("drain", {"deadline_ms": 0})
    wait_for(lambda: pools.view().replicas[0].slots_used == 0, "the lease is ended")
    assert pools.view().replicas[0].state is ReplicaState.DRAINING


def test_a_drain_holds_over_a_restart(pools: Pools) -> None:
    """LO-POOL-163."""
    pools.post("drain")
    pools.stack.daemons["pool_managerd"].stop(signal.SIGKILL)
    pools.stack.start("pool_managerd").wait_ready()
    wait_for(lambda: pools.view().replicas[0].state == "draining", "it is taken back")
    assert pools.view().draining


def test_a_reload_starts_the_new_model_beside_the_old_one(pools: Pools) -> None:
    """LO-POOL-164: whoever runs on the old one finishes, and new work goes to the new one."""
    held, old = pools.lease("p/0"), pools.view().replicas[0]
    assert pools.reload("good-new").status_code == 202
    wait_for(lambda: len(pools.view().replicas) == 2, "the new one is started")
    wait_for(lambda: pools.view().replicas[1].state == "ready", "the new one serves")
    wait_for(lambda: pools.view().replicas[0].state == "draining", "the old one drains")
    assert session_members(old.pid or 0)
    assert pools.lease("p/0").status_code == 409
    new_id = pools.view().replicas[1].replica_id
    assert pools.lease(new_id).status_code == 201
    pools.release(held)
    view = pools.until_reloaded()
    assert view.reload is not None
    assert view.reload.state is ReloadState.SUCCEEDED
    wait_for(lambda: len(pools.view().replicas) == 1, "the old one is gone")
    assert not session_members(old.pid or 0)
    assert pools.view().model_ref.endswith("good-new")


def test_a_reload_outlives_a_restart(pools: Pools) -> None:
    """LO-POOL-165."""
    pools.reload("good-new")
    pools.until_reloaded()
    wait_for(lambda: len(pools.view().replicas) == 1, "the old one is gone")
    before = pools.view().replicas[0]
    pools.stack.daemons["pool_managerd"].stop(signal.SIGKILL)
    pools.stack.start("pool_managerd").wait_ready()
    pools.until_ready()
    after = pools.view().replicas[0]
    assert (after.pid, after.replica_id) == (before.pid, before.replica_id)
    assert pools.view().model_ref.endswith("good-new")


FAULTS = ["bad-model", "hang-after-0", "mortal"]
"""A bad file, one that never serves, one that dies soon after it served."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reload_that_fails_leaves_the_old_model_serving(tmp_path: Path, fault: str) -> None:
    """LO-POOL-166."""
    pools = Pools(tmp_path, supervision=QUICK | {"probation_ms": 4_000})
    try:
        pools.until_ready()
        old = pools.view().replicas[0]
        assert pools.reload(fault, deadline_ms=3_000).status_code == 202
        view = pools.until_reloaded()
        assert view.reload is not None
        assert view.reload.state is ReloadState.ROLLED_BACK, view.reload
        wait_for(lambda: pools.view().ready, "the old model serves")
        view = pools.view()
        assert view.model_ref.endswith("good")
        assert [(r.replica_id, r.pid) for r in view.replicas] == [(old.replica_id, old.pid)]
        assert pools.lease("p/0").status_code == 201
    finally:
        pools.stack.stop()


def test_a_second_reload_is_refused_and_the_same_one_is_the_same(pools: Pools) -> None:
    """LO-POOL-167."""
    assert pools.reload("slow-start-3000").status_code == 202
    assert pools.reload("slow-start-3000").status_code == 202
    assert pools.reload("good-new").status_code == 409
    assert pools.post("resume").status_code == 409
    assert len(pools.view().replicas) <= 2


def test_a_reload_of_what_is_no_ref_is_refused(pools: Pools) -> None:
    assert pools.post("reload", {"new_model_ref": "nonsense"}).status_code == 400
    assert pools.post("reload", {}).status_code == 400
    assert pools.view().reload is None


def test_a_changed_configuration_restarts_only_what_changed(tmp_path: Path) -> None:
    """LO-POOL-168."""
    pools = Pools(tmp_path)
    try:
        pools.stack.configure(pools=[pools.pool("a"), pools.pool("b"), pools.pool("c")])
        daemon = pools.stack.daemons["pool_managerd"]
        os.kill(daemon.process.pid, signal.SIGHUP)

        def serving() -> dict[str, int | None]:
            with pools.stack.client("pool_managerd") as client:
                found = Snapshot.model_validate_json(client.get("/v1/snapshot").content)
            return {p.pool_id: p.replicas[0].pid for p in found.pools if p.ready}

        wait_for(lambda: set(serving()) == {"a", "b", "c"}, "the new pools serve")
        before = serving()
        changed = [pools.pool("a"), pools.pool("b", slots=2), pools.pool("d")]
        pools.stack.configure(pools=changed)
        os.kill(daemon.process.pid, signal.SIGHUP)
        wait_for(lambda: set(serving()) == {"a", "b", "d"}, "the changed pools serve")
        wait_for(lambda: serving().get("b") not in (None, before["b"]), "b is exchanged")
        assert serving()["a"] == before["a"]
        wait_for(lambda: not session_members(before["c"] or 0), "the removed pool is ended")
    finally:
        pools.stack.stop()


def test_a_configuration_that_changes_during_a_reload_waits_for_its_end(pools: Pools) -> None:
    """LO-POOL-168: and no engine of the reload is left behind."""
    assert pools.reload("slow-start-1500").status_code == 202
    pools.stack.configure(pools=[pools.pool(slots=3)])
    daemon = pools.stack.daemons["pool_managerd"].process
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: [r.slots_total for r in pools.view().replicas] == [3], "the change is made")
    wait_for(lambda: pools.view().ready, "it serves")
    assert pools.view().model_ref.endswith("slow-start-1500")
    assert len(pools.view().replicas) == 1


def test_engines_are_left_running_where_that_is_asked_for(pools: Pools) -> None:
    """LO-POOL-151."""
    stack = pools.stack
    pid = pools.view().replicas[0].pid
    assert pid is not None
    stack.daemons["pool_managerd"].stop()
    assert not session_members(pid)
    stack.start("pool_managerd", "--leave-replicas").wait_ready()
    pools.until_ready()
    pid = pools.view().replicas[0].pid
    assert pid is not None
    began = time.monotonic()
    assert stack.daemons["pool_managerd"].stop() == 0
    assert time.monotonic() - began < 10
    assert session_members(pid)
    stack.start("pool_managerd").wait_ready()
    assert pools.until_ready().replicas[0].pid == pid
