"""The client of vLLM, on real vLLM on the CPU: what only this engine can be asked.

What every engine is asked stands in `test_harness.conformance`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from contracts.engines import Feature
from contracts.tasks import Message, Workload
from test_harness.conformance.asking import failure_of, finished_of, items_of, request_of, text_of
from test_harness.conformance.real_engines import CTX, REAL, serving
from worker_adapters.base import EmbeddingRequest, EngineClient, Finished, RerankRequest, Token
from worker_adapters.errors import EngineFailed, EngineRefused

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

VLLM = REAL["vllm"]
STONES = "one stone after another under the bridge " * 14

if VLLM.missing is not None:
    pytest.skip(VLLM.missing, allow_module_level=True)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """For the whole module, so that one engine serves all its tests."""
    return "asyncio"


@pytest.fixture(scope="module")
async def client(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EngineClient]:
    async with serving(VLLM, tmp_path_factory.mktemp("vllm"), VLLM.slots) as served:
        yield served


async def test_it_tells_all_that_it_can(client: EngineClient) -> None:
    """LO-WRK-139, LO-WRK-140."""
    seen, can = await client.observe(), await client.capabilities()
    assert seen.engine_version == "0.32.0"
    assert (seen.ctx, seen.model_alias) == (CTX, "tiny")
    assert (seen.requests_waiting, seen.cache_evictions) == (0, 0)
    assert can.features == set(Feature) - {Feature.TOOLS, Feature.SLOTS}
    assert can.strict_refusal


async def test_the_cache_is_told_and_a_salt_avoids_it(client: EngineClient) -> None:
    """LO-WRK-133, LO-WRK-095: a block of the cache is 128 tokens on the CPU."""
    first = finished_of(await items_of(client, request_of(STONES)))
    again = finished_of(await items_of(client, request_of(STONES)))
    assert (first.cached_tokens, again.cached_tokens) == (0, 128)
    for _ in range(2):
        cold = finished_of(await items_of(client, request_of(STONES, cache_prompt=False)))
        assert cold.cached_tokens == 0


async def test_a_cached_prompt_and_company_change_no_byte_here(client: EngineClient) -> None:
    """Seen, not promised: float32 on the CPU."""
    request = request_of(STONES, max_tokens=40, temperature=1.0, seed=9)
    cold = text_of(await items_of(client, replace(request, cache_prompt=False)))
    texts = [text_of(await items_of(client, request)) for _ in range(2)]
    together: list[str] = []

    async def one() -> None:
        together.append(text_of(await items_of(client, request)))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    assert {cold, *texts, *together} == {cold}


async def test_long_seeded_prompts_at_once_do_not_end_it(client: EngineClient) -> None:
    """LO-WRK-136: more of them than it has slots, each more than half a context."""
    prompts = [f"{number} " + "stone bridge " * 150 for number in range(5)]
    ends: list[Finished] = []

    async def one(prompt: str) -> None:
        ends.append(finished_of(await items_of(client, request_of(prompt, cache_prompt=False))))

    async with anyio.create_task_group() as group:
        for prompt in prompts:
            group.start_soon(one, prompt)
    assert len(ends) == 5
    assert min(end.tokens_in for end in ends) > CTX // 2


async def test_a_grammar_holds_in_a_chat_too(client: EngineClient) -> None:
    """LO-WRK-132."""
    chat = (Message(role="user", content="a number"),)
    request = request_of(None, messages=chat, grammar='root ::= "7" [0-9] [0-9]', max_tokens=9)
    said = text_of(await items_of(client, request))
    assert len(said) == 3
    assert said.startswith("7")
    assert said.isdigit()


async def test_what_it_was_not_started_for_is_refused(client: EngineClient) -> None:
    """LO-WRK-097."""
    with pytest.raises(EngineRefused, match="embedding"):
        await client.embed(EmbeddingRequest(inputs=("a",), correlation_id="c"))


async def test_work_done_changes_with_work_and_stands_still_without(client: EngineClient) -> None:
    """LO-WRK-139, LO-POOL-154."""
    before = (await client.observe()).work_done
    assert (await client.observe()).work_done == before
    await items_of(client, request_of(max_tokens=3))
    assert (await client.observe()).work_done != before


async def test_its_greedy_text_is_llama_cpps(client: EngineClient, tmp_path: Path) -> None:
    """LO-WRK-144: the same weights, words and template, in two layouts."""
    chat = (Message(role="user", content="a green river"),)
    requests = [
        request_of("The old stone bridge", temperature=0.0, max_tokens=24),
        request_of(None, messages=chat, temperature=0.0, max_tokens=24),
    ]
    async with serving(REAL["embedded"], tmp_path, 1) as other:
        for request in requests:
            ours, theirs = await items_of(client, request), await items_of(other, request)
            assert text_of(ours) == text_of(theirs)
            assert finished_of(ours).tokens_in == finished_of(theirs).tokens_in


async def test_texts_become_vectors_and_ranks(tmp_path: Path) -> None:
    """LO-WRK-134, LO-WRK-141: a pooling vLLM serves both, and generates nothing."""
    pooling = replace(VLLM, engine_args=lambda: (*VLLM.engine_args(), "--runner", "pooling"))
    async with serving(pooling, tmp_path, 2) as client:
        can = await client.capabilities()
        assert can.workloads == {Workload.EMBEDDING, Workload.RERANK}
        texts = ("The river", "a stone", "The river")
        got = await client.embed(EmbeddingRequest(inputs=texts, correlation_id="c"))
        assert got.vectors[0] == got.vectors[2] != got.vectors[1]
        assert got.tokens_in > 0
        ranks = await client.rerank(
            RerankRequest(query="The river", documents=texts[1:], correlation_id="c")
        )
        assert ranks.scores[1] > ranks.scores[0]


async def test_a_core_that_dies_in_a_stream_is_a_failure_and_no_end(tmp_path: Path) -> None:
    """LO-WRK-131: vLLM ends that stream with `[DONE]`."""
    async with serving(VLLM, tmp_path, 1) as client:
        with pytest.raises(EngineFailed):
            await _generate_while_the_core_dies(client, tmp_path)
        _, error = await failure_of(client, request_of())
        assert error.retriable


async def _generate_while_the_core_dies(client: EngineClient, model_folder: Path) -> None:
    killed = False
    async with aclosing(client.stream(request_of(max_tokens=CTX - 64))) as stream:
        async for item in stream:
            if isinstance(item, Token) and not killed:
                killed = True
                await anyio.to_thread.run_sync(_kill_the_core, model_folder)


def _kill_the_core(model_folder: Path) -> None:
    """The engine core of the server that was started with this model."""
    found = subprocess.run(
        ["pgrep", "-f", f"api_server --model {model_folder}"],
        check=True,
        capture_output=True,
        text=True,
    )
    server = int(found.stdout.split()[0])
    core = subprocess.run(
        ["pgrep", "-g", str(os.getpgid(server)), "-f", "EngineCore"],
        check=True,
        capture_output=True,
        text=True,
    )
    os.kill(int(core.stdout.split()[0]), signal.SIGKILL)
