"""What an engine must say and do before it is given work, and while it serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import anyio
import pytest

from contracts.config import Pool
from contracts.engines import Feature
from contracts.errors import ErrorCode
from contracts.pools import FailureReason, PoolWorkload
from contracts.tasks import Workload
from pool_managerd.canary import prove
from pool_managerd.clock import SystemClock
from pool_managerd.domain.leases import Work
from pool_managerd.domain.replica_state import Move
from pool_managerd.provisioning.launchers import shown
from pool_managerd.readiness import Unfit, serving, until_adopted
from pool_managerd.replica import Endpoint, Replica, ReplicaEntry
from pool_managerd.watching import EngineWatch, Patience
from worker_adapters.base import (
    EmbeddingRequest,
    Embeddings,
    EngineCapabilities,
    Observation,
    Ranking,
    RerankRequest,
)
from worker_adapters.errors import EngineError, EngineFailed, EngineRefused
from worker_adapters.scripted import ScriptedClient, Step

pytestmark = pytest.mark.anyio
SEEN = Observation("b1", ctx=64, slots_total=1, slots_busy=0, kv_cache_usage=None, model_alias="m")
GENERATES = frozenset({Workload.COMPLETION, Workload.CHAT})


class Pooled(ScriptedClient):
    """An engine that embeds and ranks too, and keeps what it was asked."""

    def __init__(
        self, *served: Workload, script: Sequence[Step] = (), refusal: str | None = "batches"
    ) -> None:
        told = EngineCapabilities(frozenset(served), frozenset(Feature), refusal)
        super().__init__(script, observation=SEEN, capabilities=told)
        self.seen = SEEN
        self.embedded: list[EmbeddingRequest] = []
        self.ranked: list[RerankRequest] = []
        self.broken = False
        self.unfit: str | None = None
        self.looks = 0
        self.looked_thrice = anyio.Event()

    async def observe(self) -> Observation:
        self.looks += 1
        if self.looks == 3:
            self.looked_thrice.set()
        return self.seen

    async def capabilities(self) -> EngineCapabilities:
        if self.unfit is not None:
            raise EngineRefused(self.unfit, code=ErrorCode.INVALID_PARAMS, status=400)
        return await super().capabilities()

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        if self.broken:
            raise EngineFailed("it embeds nothing any more")
        self.embedded.append(request)
        return Embeddings(((0.5,),), tokens_in=1)

    async def rerank(self, request: RerankRequest) -> Ranking:
        self.ranked.append(request)
        return Ranking((0.5,), tokens_in=2)


def pool(workload: PoolWorkload = "generation", **changes: object) -> Pool:
    known: dict[str, object] = {
        "id": "p",
        "engine": "llamacpp",
        "model": {"id": "m", "ref": "file:/m.gguf"},
        "workload": workload,
        "provisioning": {"mode": "binary", "path": "llama-server"},
    }
    return Pool.model_validate(known | changes, strict=False)


def asked_of(engine: Pooled) -> tuple[int, int, int]:
    return len(engine.requests), len(engine.embedded), len(engine.ranked)


@pytest.mark.parametrize(
    ("workload", "asked"),
    [("generation", (1, 0, 0)), ("embedding", (0, 1, 0)), ("rerank", (0, 0, 1))],
)
async def test_the_proof_is_the_least_piece_of_the_pools_own_workload(
    workload: PoolWorkload, asked: tuple[int, int, int]
) -> None:
    """LO-POOL-003."""
    engine = Pooled(*Workload)
    introduction = await serving(engine, workload)
    assert introduction.observation == SEEN
    assert asked_of(engine) == asked
    for embedding in engine.embedded:
        assert len(embedding.inputs) == 1
    for rerank in engine.ranked:
        assert len(rerank.documents) == 1
    for generation in engine.requests:
        assert generation.max_tokens == 1


async def test_an_engine_that_only_chats_is_asked_for_a_token_of_a_chat() -> None:
    engine = Pooled(Workload.CHAT)
    await prove(engine, "generation", frozenset({Workload.CHAT}))
    assert engine.requests[0].prompt is None
    assert engine.requests[0].messages is not None


@pytest.mark.parametrize(
    ("workload", "served"),
    [
        ("generation", Workload.EMBEDDING),
        ("embedding", Workload.COMPLETION),
        ("rerank", Workload.EMBEDDING),
    ],
)
@pytest.mark.parametrize("ask", [serving, until_adopted])
async def test_an_engine_that_does_not_do_what_its_pool_is_for_gets_no_work(
    ask: Callable[..., object], workload: PoolWorkload, served: Workload
) -> None:
    """LO-POOL-176."""
    engine = Pooled(served)
    with pytest.raises(Unfit) as caught:
        await ask(engine, workload)  # type: ignore[misc]
    failure = caught.value.failure
    assert failure.reason is FailureReason.WORKLOAD_MISSING
    assert f"it serves {served.value}, and its pool is for {workload}" in failure.message
    assert "`workload`" in failure.message
    assert asked_of(engine) == (0, 0, 0)


@pytest.mark.parametrize("ask", [serving, until_adopted])
async def test_an_engine_whose_model_is_not_for_it_is_not_tried_again(
    ask: Callable[..., object],
) -> None:
    """LO-POOL-176: as where a model names no pooling; the engine's own words are the remedy."""
    engine = Pooled(Workload.EMBEDDING)
    engine.unfit = "the model names no pooling"
    with pytest.raises(Unfit, match="names no pooling") as caught:
        await ask(engine, "embedding")  # type: ignore[misc]
    assert caught.value.failure.reason is FailureReason.WORKLOAD_MISSING


async def test_an_engine_that_fails_its_proof_does_not_serve() -> None:
    """LO-POOL-003."""
    engine = Pooled(Workload.EMBEDDING)
    engine.broken = True
    with pytest.raises(EngineError):
        await serving(engine, "embedding")


@pytest.mark.parametrize("refusal", [None, "batches"])
def test_what_an_engine_tells_is_shown_within_bounds(refusal: str | None) -> None:
    """LO-POOL-170: and whether it can be exact is its own word alone."""
    told = EngineCapabilities(GENERATES, frozenset({Feature.STOP, Feature.SEED}), refusal)
    view = shown(replace(told, trtllm_version="9" * 300), pool(slots=1))
    assert view.strict_refusal == refusal
    assert view.workloads == (Workload.CHAT, Workload.COMPLETION)
    assert view.features == (Feature.SEED, Feature.STOP)
    assert view.trtllm_version == "9" * 256


def test_replicas_launched_otherwise_are_told_apart() -> None:
    """LO-ORC-169: a KV cache of another type gives other bytes."""
    told = EngineCapabilities(GENERATES, frozenset(), None)

    def digest(**changes: object) -> str | None:
        return shown(told, pool(**changes)).settings_digest  # type: ignore[arg-type]

    other = digest(provisioning={"mode": "binary", "path": "/opt/llama-server"})
    quantized = digest(engine_args=("--cache-type-k", "q8_0"))
    assert len({digest(), digest(slots=7), other, quantized}) == 4
    assert digest() == digest() is not None


def test_another_workload_is_another_launch() -> None:
    """LO-POOL-178."""
    prints = {ReplicaEntry(pool(w), 0, 0).fingerprint for w in ("generation", "embedding")}
    assert len(prints) == 2


def served_by(engine: Pooled, workload: PoolWorkload) -> Replica:
    replica = Replica(ReplicaEntry(pool(workload), 0, 0), SystemClock(), lambda _: None)
    replica.launched(Endpoint("http://h", None), 1, ())
    replica.move(Move.START)
    replica.move(Move.SPAWNED)
    replica.observed(SEEN)
    replica.move(Move.SERVES)
    return replica


def watch(replica: Replica, engine: Pooled) -> EngineWatch:
    patience = Patience(stall_ms=600, first_token_ms=600, canary_ms=1)
    nothing = Work(0, None, None)
    return EngineWatch(
        replica, engine, SystemClock(), patience, lambda: nothing, lambda: None, lambda seen: seen
    )


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pool_managerd.watching.OBSERVE_MIN_S", 0.01)


@pytest.mark.usefixtures("_quick")
async def test_an_idle_engine_that_embeds_is_asked_for_a_vector_while_it_serves() -> None:
    """LO-POOL-155."""
    engine = Pooled(Workload.EMBEDDING)
    replica = served_by(engine, "embedding")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            failures = []

            async def run() -> None:
                failures.append(await watch(replica, engine).until_lost())

            group.start_soon(run)
            await engine.looked_thrice.wait()
            assert engine.embedded
            engine.broken = True
    assert failures[0].reason is FailureReason.NOT_PROGRESSING
    assert "no vector" in failures[0].message
    assert not engine.requests


@pytest.mark.usefixtures("_quick")
async def test_another_engine_at_the_same_address_ends_the_life() -> None:
    """LO-POOL-177."""
    engine = Pooled(*GENERATES)
    replica = served_by(engine, "generation")
    engine.seen = replace(SEEN, engine_version=None)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            failures = []

            async def run() -> None:
                failures.append(await watch(replica, engine).until_lost())

            group.start_soon(run)
            await engine.looked_thrice.wait()
            assert not failures, "a version that is not told once is no other"
            replica.observed(SEEN)
            engine.seen = replace(SEEN, engine_version="b2")
    assert failures[0].reason is FailureReason.IDENTITY_MISMATCH
    assert "b1" in failures[0].message
    assert "b2" in failures[0].message


def test_figures_that_cannot_be_are_not_shown() -> None:
    """LO-MET-006: an engine may say anything."""
    replica = served_by(Pooled(), "generation")
    mad = replace(SEEN, engine_version="v" * 999, kv_cache_usage=float("nan"), slots_busy=-1)
    replica.observed(replace(mad, requests_waiting=-2, cache_evictions=-3))
    view = replica.view(0)
    assert view.engine_version == "v" * 256
    figures = (view.kv_cache_usage, view.requests_running, view.requests_waiting, view.kv_evictions)
    assert figures == (None, None, None, None)
    known = replace(SEEN, slots_busy=1, requests_waiting=2, cache_evictions=3)
    replica.observed(known)
    view = replica.view(0)
    assert (view.requests_running, view.requests_waiting, view.kv_evictions) == (1, 2, 3)
