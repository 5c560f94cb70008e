"""Replicas that differ from their pool never serve in it: real processes, real files."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.pools import FailureReason, PoolView, ReloadState, ReplicaState, ReplicaView
from pool_managerd.tests.test_pool_changes import Pools
from test_harness.stack import wait_for

pytestmark = pytest.mark.slow
OLD, NEW = b"the old weights", b"the new weights"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Twins(Pools):
    """A pool of two replicas of one model file."""

    def __init__(self, root: Path, **changes: Any) -> None:
        super().__init__(root, pools=[self._twin_pool(root, **changes)])

    def _twin_pool(self, root: Path, **changes: Any) -> dict[str, Any]:
        self.root = root
        return self.pool(replicas=[{"devices": []}, {"devices": []}], **changes)

    def model(self, name: str) -> str:
        path = self.root / name
        if not path.exists():
            path.write_bytes(OLD)
        return f"file:{path}"

    def replace_model(self, content: bytes) -> None:
        """As a careful operator does: beside it, and renamed into its place."""
        fresh = self.root / "fresh"
        fresh.write_bytes(content)
        fresh.replace(self.root / "good")

    def kill(self, number: int) -> int:
        pid = self.view().replicas[number].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def until_both_serve(self, content: bytes) -> list[int]:
        """Both serve this content; returns their pids."""

        def look() -> bool:
            found = self.view().replicas
            ready = [r for r in found if r.state is ReplicaState.READY]
            return len(found) == len(ready) == 2 and all(
                replica.model_digest == digest_of(content) for replica in ready
            )

        wait_for(look, "both replicas serve the same model")
        return [replica.pid or 0 for replica in self.view().replicas]

    def until_given_up(self, number: int) -> ReplicaView:
        def look() -> bool:
            return self.view().replicas[number].state is ReplicaState.FAILED

        wait_for(look, "the one that differs is given up")
        return self.view().replicas[number]


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[Twins]:
    twins = Twins(tmp_path)
    twins.until_both_serve(OLD)
    yield twins
    twins.stack.stop()


def served_digests(view: PoolView) -> set[str | None]:
    return {r.model_digest for r in view.replicas if r.state is ReplicaState.READY}


def test_a_replica_whose_file_was_replaced_does_not_serve_beside_the_others(twins: Twins) -> None:
    """LO-POOL-171, LO-POOL-173: until a reload exchanges them all."""
    twins.replace_model(NEW)
    twins.kill(0)
    failed = twins.until_given_up(0)
    assert failed.last_error is not None
    assert failed.last_error.reason is FailureReason.DIGEST_MISMATCH
    assert "llama-orch pools reload p file:" in failed.last_error.message
    assert digest_of(NEW) in failed.last_error.message
    assert failed.pid is None
    assert served_digests(twins.view()) == {digest_of(OLD)}
    assert twins.reload("good").status_code == 202
    view = twins.until_reloaded()
    assert view.reload is not None
    assert view.reload.state is ReloadState.SUCCEEDED, view.reload
    twins.until_both_serve(NEW)


def test_one_that_differs_serves_again_once_its_file_is_back(twins: Twins) -> None:
    """LO-POOL-175."""
    twins.replace_model(NEW)
    twins.kill(1)
    twins.until_given_up(1)
    twins.replace_model(OLD)
    twins.until_both_serve(OLD)


def test_one_that_differs_serves_once_those_it_differs_from_are_gone(twins: Twins) -> None:
    """LO-POOL-175: the others come up with the new file too."""
    twins.replace_model(NEW)
    twins.kill(1)
    twins.until_given_up(1)
    twins.kill(0)
    twins.until_both_serve(NEW)


def test_a_resume_tries_one_that_differs_again(twins: Twins) -> None:
    """LO-POOL-175: and it is given up again for as long as it differs."""
    twins.replace_model(NEW)
    twins.kill(1)
    first = twins.until_given_up(1)
    assert first.last_error is not None
    assert twins.post("resume").status_code == 202

    def again() -> bool:
        error = twins.view().replicas[1].last_error
        assert error is not None
        assert first.last_error is not None
        return error.at_ms > first.last_error.at_ms

    wait_for(again, "it is tried again")
    twins.until_given_up(1)
    assert served_digests(twins.view()) == {digest_of(OLD)}


def test_an_engine_that_is_taken_back_has_the_digest_of_the_file_that_it_loaded(
    twins: Twins,
) -> None:
    """LO-POOL-174: not of the one that took its place since."""
    pids = [replica.pid for replica in twins.view().replicas]
    twins.replace_model(NEW)
    twins.stack.daemons["pool_managerd"].stop(signal.SIGKILL)
    twins.stack.start("pool_managerd").wait_ready()
    assert twins.until_both_serve(OLD) == pids
    twins.kill(0)
    twins.until_given_up(0)


def test_a_reload_of_the_same_model_exchanges_every_engine(twins: Twins) -> None:
    """LO-POOL-173: the engine itself may be another one by now."""
    before = twins.until_both_serve(OLD)
    twins.reload("good")
    view = twins.until_reloaded()
    assert view.reload is not None
    assert view.reload.state is ReloadState.SUCCEEDED
    assert not set(before) & set(twins.until_both_serve(OLD))
