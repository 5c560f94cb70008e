"""Embeddings, reranks, structured and strict output, on real llama.cpp behind both daemons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from test_harness.e2e.conftest import PoolFactory
from test_harness.stack import running_stack
from test_harness.task_client import TaskClient, assert_grammar
from worker_adapters.tiny_gguf import write_model

pytestmark = pytest.mark.slow

EMBED: dict[str, Any] = {
    "workload": "embedding",
    "model": "embedding",
    "prompt": None,
    "max_tokens": None,
    "seed": None,
}
RERANK = EMBED | {"workload": "rerank", "model": "rerank"}


def pool(path: Path, embedded_pool: PoolFactory, workload: str) -> dict[str, Any]:
    """A pool on a model made for this workload."""
    write_model(path / f"{workload}.gguf", workload)
    return embedded_pool(
        id=workload,
        workload=workload,
        model={"id": workload, "ref": f"file:{path}/{workload}.gguf"},
        ctx=512,
    )


def test_texts_are_embedded_and_ranked_by_pools_made_for_it(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-163, LO-ORC-165."""
    pools = [pool(tmp_path, embedded_pool, kind) for kind in ("embedding", "rerank")]
    with running_stack(tmp_path, [*pools, embedded_pool()]) as stack, TaskClient(stack) as client:
        for name in ("embedding", "rerank", "chat"):
            stack.wait_serving(name)
        told = {p["pool_id"]: p for p in client.get("/v1/capabilities").json()["pools"]}
        assert told["embedding"]["workloads"] == ["embedding"]
        assert told["rerank"]["workloads"] == ["rerank"]
        texts = ["the green river", "a tensor", "the green river"]
        task_id = client.accept(**EMBED, inputs=texts)
        events = client.collect(task_id)
        assert_grammar(events)
        vectors = events[-1].data["result"]["embeddings"]
        assert len(vectors) == 3
        assert len({len(vector) for vector in vectors}) == 1
        assert vectors[0] == vectors[2] != vectors[1]
        assert events[-1].data["tokens_in"] > 3
        ranked = client.collect(client.accept(**RERANK, inputs=["river", *texts[:2]]))[-1].data
        ranking = ranked["result"]["ranking"]
        assert sorted(found["index"] for found in ranking) == [0, 1]
        assert ranking[0]["score"] >= ranking[1]["score"]
        assert client.task(task_id)["result"] == {"embeddings": vectors}
        refused = client.post(**EMBED | {"model": "tiny"}, inputs=texts)
        assert refused.status_code == 400
        assert refused.json()["details"]["field"] == "workload"


def test_an_answer_holds_to_its_schema(tmp_path: Path, embedded_pool: PoolFactory) -> None:
    """LO-ORC-166."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 2]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    with running_stack(tmp_path, [embedded_pool()]) as stack, TaskClient(stack) as client:
        stack.wait_serving("chat")
        for seed in range(4):
            task_id = client.accept(json_schema=schema, seed=seed, max_tokens=2048)
            assert client.collect(task_id)[-1].name == "end"
            answer = json.loads(client.task(task_id)["text"])
            assert answer.keys() == {"name", "age"}


def test_strict_gives_equal_bytes_on_both_replicas_and_is_refused_where_slots_share(
    tmp_path: Path, embedded_pool: PoolFactory
) -> None:
    """LO-ORC-169, LO-ORC-170, LO-ORC-171, LO-ORC-173."""
    shared = embedded_pool(id="shared", slots=2)
    with running_stack(tmp_path, [embedded_pool(replicas=2), shared]) as stack:
        stack.wait_serving("chat", replicas=2)
        stack.wait_serving("shared")
        with TaskClient(stack) as client:
            told = {p["pool_id"]: p for p in client.get("/v1/capabilities").json()["pools"]}
            assert (told["chat"]["strict"], told["chat"]["strict_refusal"]) == (True, None)
            refused = client.post(pool_id="shared", determinism="strict")
            assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_PARAMS")
            assert refused.json()["details"]["reason"] in told["shared"]["strict_refusal"]
            strict = {"pool_id": "chat", "determinism": "strict", "max_tokens": 48}
            tasks = [client.accept(**strict, seed=seed) for seed in (1, 1, 1, 1, 2)]
            streams = [future.result() for future in map(client.collecting, tasks)]
            texts = [[e.data for e in events if e.name == "token"] for events in streams]
            assert texts[0] == texts[1] == texts[2] == texts[3] != texts[4]
            placed = {events[0].data["replica_id"] for events in streams}
            assert placed == {"chat/0", "chat/1"}
            assert client.task(tasks[0])["sampler_profile_version"] == "balanced-1"
