"""How a life gets into its pool: engine version, digest, and the file that was loaded."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from contracts.config import Pool
from contracts.pools import FailureReason
from pool_managerd.clock import SystemClock
from pool_managerd.identities import PoolIdentities
from pool_managerd.membership import Membership
from pool_managerd.models.digest import ModelDigests
from pool_managerd.readiness import Unfit
from pool_managerd.replica import Replica, ReplicaEntry

pytestmark = pytest.mark.anyio


class Bench:
    """A pool of replicas of one model file."""

    def __init__(self, root: Path) -> None:
        self.model = root / "m.gguf"
        self.model.write_bytes(b"old")
        self.identities, self.digests = PoolIdentities(), ModelDigests(root)
        self.pool = Pool.model_validate(
            {
                "id": "p",
                "engine": "llamacpp",
                "model": {"id": "m", "ref": f"file:{self.model}"},
                "replicas": [{"devices": []}] * 3,
                "provisioning": {"mode": "embedded"},
            },
            strict=False,
        )

    def member(self, index: int, *, adopted: bool = False, stamp: str | None = None) -> Membership:
        replica = Replica(ReplicaEntry(self.pool, 0, index), SystemClock(), lambda _: None)
        known = self.digests.stamp(self.model) if stamp is None else stamp
        return Membership(
            replica, self.identities, self.digests, self.model, known, adopted=adopted
        )

    def replace(self, content: bytes) -> None:
        fresh = self.model.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.model)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def refused(member: Membership, version: str | None) -> tuple[FailureReason, str]:
    with anyio.fail_after(5), pytest.raises(Unfit) as caught:
        await member.join(version)
    return caught.value.failure.reason, str(caught.value)


async def test_an_engine_of_another_version_does_not_serve_beside_the_others(
    bench: Bench,
) -> None:
    """LO-POOL-171, LO-POOL-175."""
    first, second = bench.member(0), bench.member(1)
    await first.learn_digest()
    await first.join("b1")
    await second.learn_digest()
    reason, message = await refused(second, "b2")
    assert reason is FailureReason.VERSION_MISMATCH
    assert "b2" in message
    assert "b1" in message
    assert "llama-orch pools reload p file:" in message
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(second.until_mended)
            await anyio.wait_all_tasks_blocked()
            first.leave()
        await second.join("b2")


async def test_the_first_serves_while_its_file_is_hashed_and_the_next_one_waits(
    bench: Bench,
) -> None:
    """LO-POOL-172."""
    first, second, joined = bench.member(0), bench.member(1), []
    with anyio.fail_after(5):
        await first.join("b1")
        async with anyio.create_task_group() as group:

            async def join() -> None:
                await second.join("b1")
                joined.append(second)

            group.start_soon(join)
            await second.learn_digest()
            await anyio.wait_all_tasks_blocked()
            assert not joined
            await first.learn_digest()
    assert joined


async def test_a_file_that_was_replaced_while_it_was_loaded_is_served_by_nobody(
    bench: Bench,
) -> None:
    """LO-POOL-174."""
    first = bench.member(0)
    bench.replace(b"new")
    reason, message = await refused(first, "b1")
    assert reason is FailureReason.DIGEST_MISMATCH
    assert "replaced while the engine loaded it" in message


async def test_a_digest_that_cannot_be_known_equals_no_other(bench: Bench) -> None:
    """LO-POOL-172: taken back after its file was replaced, and never hashed before."""
    stamp = bench.digests.stamp(bench.model)
    bench.replace(b"new")
    first, second = bench.member(0, adopted=True, stamp=stamp), bench.member(1)
    assert await first.learn_digest() is None
    await first.join("b1")
    await second.learn_digest()
    reason, message = await refused(second, "b1")
    assert reason is FailureReason.DIGEST_MISMATCH
    assert "serve a digest that nobody knows" in message


async def test_a_file_that_differs_is_refused_before_an_engine_loads_it(bench: Bench) -> None:
    """LO-POOL-171."""
    first = bench.member(0)
    await first.learn_digest()
    await first.join("b1")
    await bench.member(1).check_before_launch()
    bench.replace(b"new")
    from_disk = bench.member(2)
    with pytest.raises(Exception, match="the others of pool p serve digest sha256:") as caught:
        await from_disk.check_before_launch()
    assert "put the earlier file back" in str(caught.value)


async def test_the_digest_asked_for_may_be_that_of_the_first_file_of_a_split_model(
    bench: Bench, tmp_path: Path
) -> None:
    """LO-POOL-180, LO-POOL-014."""
    bench.model = tmp_path / "m-00001-of-00002.gguf"
    bench.model.write_bytes(b"names")
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"weights")
    all_files = await bench.digests.of(bench.model)
    for wanted, refuses in (
        (all_files, False),
        (await bench.digests.of_file(bench.model), False),
        (f"sha256:{'0' * 64}", True),
    ):
        model = bench.pool.model.model_copy(update={"digest": wanted})
        bench.pool = bench.pool.model_copy(update={"model": model})
        assert bool(await bench.member(0).learn_digest()) is refuses
