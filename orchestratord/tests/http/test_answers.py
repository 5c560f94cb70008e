"""Embeddings, reranks, profiles and what pools can do, as a client reads them."""

from __future__ import annotations

import json

import anyio
import pytest

from contracts.capabilities import Capabilities
from contracts.engines import Feature
from contracts.tasks import EmbeddingResult, TaskView, Workload
from orchestratord.http.sse import PIECE_BYTES
from orchestratord.tests.builders import abilities, device, replica
from orchestratord.tests.http.conftest import Opening, Site
from worker_adapters.base import Embeddings, Ranking

pytestmark = pytest.mark.anyio

EMBED = {"workload": "embedding", "inputs": ["a", "b"], "prompt": None, "max_tokens": None}


async def post(it: Site, **fields: object) -> str:
    body = {"model": "tiny"} | {k: v for k, v in fields.items() if v is not None}
    answer = await it.ask("POST", "/v1/tasks", json.dumps(body).encode())
    assert answer.status == 202, answer.json
    return str(answer.json["task_id"])


def unchunked(body: bytes) -> bytes:
    """The body that a chunked answer carries (RFC 9112 section 7.1)."""
    pieces = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        pieces.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return b"".join(pieces)


async def test_a_result_is_the_same_in_the_stream_and_in_every_get(site: Opening) -> None:
    """LO-ORC-163, LO-ORC-165: also one of many times a piece."""
    async with site() as it:
        it.behind.serve(replica(capabilities=abilities(*Workload)))
        count = PIECE_BYTES
        it.behind.play([Embeddings((tuple(n / 7 for n in range(count)), (0.5,)), 2)])
        task_id = await post(it, **EMBED)
        frames = await it.behind.frames(task_id)
        stream = await it.ask("GET", f"/v1/tasks/{task_id}/stream")
        data = next(
            line.removeprefix(b"data: ")
            for line in unchunked(stream.body).split(b"\n")
            if line.startswith(b'data: {"finish_reason"')
        )
        assert json.loads(data) == frames[-1].data
        answer = await it.ask("GET", f"/v1/tasks/{task_id}")
        view = TaskView.model_validate_json(answer.body)
        assert isinstance(view.result, EmbeddingResult)
        assert view.result.model_dump(mode="json") == frames[-1].data["result"]
        assert [len(vector) for vector in view.result.embeddings] == [count, 1]
        assert (view.text, view.finish_reason, view.workload) == (None, "stop", "embedding")
        page = (await it.ask("GET", "/v1/tasks")).json
        assert [item["result"] for item in page["items"]] == [None]


async def test_a_text_has_no_result_and_a_rerank_no_text(site: Opening) -> None:
    """LO-ORC-163."""
    async with site() as it:
        it.behind.serve(replica(capabilities=abilities(*Workload)))
        text = await post(it, prompt="once", max_tokens=8)
        await it.behind.frames(text)
        answer = (await it.ask("GET", f"/v1/tasks/{text}")).json
        assert (answer["text"], answer["result"]) == ("hello", None)
        it.behind.play([Ranking((0.5,), 2)])
        ranked = await post(it, workload="rerank", inputs=["q", "a"])
        await it.behind.frames(ranked)
        answer = (await it.ask("GET", f"/v1/tasks/{ranked}")).json
        assert (answer["text"], answer["result"]) == (
            None,
            {"ranking": [{"index": 0, "score": 0.5}]},
        )


async def test_capabilities_are_what_live_replicas_have_in_common(site: Opening) -> None:
    """LO-ORC-111, LO-ORC-162, LO-ORC-169, LO-ORC-179."""

    async def told(it: Site) -> Capabilities:
        return Capabilities.model_validate_json((await it.ask("GET", "/v1/capabilities")).body)

    async with site(slots=0) as it:
        found = await told(it)
        assert found.sampler_profiles == ("balanced-1", "creative-1", "greedy-1")
        (pool,) = found.pools
        assert (pool.workloads, pool.features) == (("chat", "completion"), ())
        assert pool.strict is False
        assert "no replica of pool chat serves yet" in str(pool.strict_refusal)
        less = abilities(Workload.COMPLETION, without=[Feature.GRAMMAR], trtllm_version="0.14")
        one = replica(0, devices=("GPU-a",), capabilities=abilities())
        it.behind.serve(one, devices=[device("GPU-a", 24)])
        (pool,) = (await told(it)).pools
        assert (pool.strict, pool.strict_refusal) == (True, None)
        assert set(pool.features) == set(Feature)
        it.behind.serve(one, replica(1, capabilities=less), devices=[device("GPU-a", 24)])
        (pool,) = (await told(it)).pools
        assert (pool.workloads, set(Feature) - set(pool.features)) == (
            ("completion",),
            {Feature.GRAMMAR},
        )
        assert pool.trtllm_version == "0.14"
        assert pool.strict is False
        assert pool.strict_refusal == (
            "replicas chat/0 and chat/1 have unlike cards, GPU-a and CPU; make a pool of each"
            " kind, or leave `determinism` out"
        )


async def test_a_long_reason_fits_the_answer(site: Opening) -> None:
    async with site(slots=0) as it:
        it.behind.serve(replica(capabilities=abilities(strict_refusal="x" * 512)))
        answer = await it.ask("GET", "/v1/capabilities")
        assert len(answer.json["pools"][0]["strict_refusal"]) == 512


async def test_strict_and_profiles_are_refused_in_one_shape(site: Opening) -> None:
    """LO-ORC-170, LO-ORC-179."""
    async with site() as it:
        refused = await it.post(sampler_profile_version="calm-9")
        assert (refused.status, refused.json["code"]) == (400, "INVALID_PARAMS")
        assert refused.json["details"]["known"] == ["balanced-1", "creative-1", "greedy-1"]
        refused = await it.post(determinism="strict")
        assert (refused.status, refused.json["details"]) == (
            400,
            {"field": "determinism", "reason": "replica chat/0 has not told what it can do"},
        )
        it.behind.serve()
        await anyio.wait_all_tasks_blocked()
        refused = await it.post(workload="embedding", inputs=["a"], prompt=None)
        assert refused.status == 400
