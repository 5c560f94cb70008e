"""What every adapter makes of an engine that loads, dies, tells its facts, or is a stranger."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from contracts.engines import Feature
from contracts.tasks import Message, Workload
from test_harness.conformance.asking import (
    failure_of,
    finished_of,
    items_of,
    request_of,
    text_of,
)
from test_harness.conformance.engines import DialectUnderTest
from test_harness.conformance.fake_process import API_KEY, FakeProcess, fake_process
from worker_adapters.base import EmbeddingRequest, EngineClient, RerankRequest, Token
from worker_adapters.errors import EngineBusy, EngineLost, EngineRefused, EngineUnreachable
from worker_adapters.registry import new_client
from worker_adapters.transport import EngineTransport

pytestmark = pytest.mark.anyio

DEADLINE_S = 20.0
POLL_S = 0.02


async def test_it_tells_its_size(client: EngineClient, dialect: DialectUnderTest) -> None:
    """LO-WRK-096."""
    seen = await client.observe()
    assert seen.ctx == dialect.ctx
    assert (seen.engine_version is not None) == dialect.tells_version
    assert seen.slots_total >= 1
    assert (seen.slots_busy == 0) if dialect.tells_busy else seen.slots_busy is None


async def test_it_tells_what_it_can(client: EngineClient, dialect: DialectUnderTest) -> None:
    """LO-WRK-096."""
    can = await client.capabilities()
    assert can.workloads == dialect.workloads
    assert Feature.CANCEL in can.features
    assert (Feature.PREFIX_CACHE in can.features) == dialect.tells_cache
    assert (Feature.TOKENIZE in can.features) == dialect.counts_prompts
    assert can.strict_refusal, "four slots are decoded together"


async def test_a_prompt_is_counted_as_it_would_be_billed(
    client: EngineClient, dialect: DialectUnderTest
) -> None:
    """LO-WRK-096."""
    if not dialect.counts_prompts:
        pytest.skip(f"{dialect.name} counts no prompts")
    request = request_of("one two three four")
    counted = await client.count_prompt(request)
    assert counted == finished_of(await items_of(client, request)).tokens_in


@pytest.mark.parametrize("workload", [Workload.EMBEDDING, Workload.RERANK])
async def test_what_it_has_no_words_for_is_refused(
    client: EngineClient, dialect: DialectUnderTest, workload: Workload
) -> None:
    """LO-WRK-097."""
    if workload in dialect.workloads:
        pytest.skip(f"the stand-in of {dialect.name} serves {workload}")
    with pytest.raises(EngineRefused):
        await _asked_for(client, workload)


async def test_a_chat_that_it_has_no_template_for_is_refused(
    client: EngineClient, dialect: DialectUnderTest
) -> None:
    """LO-WRK-097."""
    if Workload.CHAT in dialect.workloads:
        pytest.skip(f"{dialect.name} serves chats")
    chat = request_of(None, messages=(Message(role="user", content="Hi"),))
    came, error = await failure_of(client, chat)
    assert not came
    assert isinstance(error, EngineRefused)


async def test_a_client_that_leaves_stops_the_engine(
    transport: EngineTransport, dialect: DialectUnderTest, tmp_path: Path
) -> None:
    """LO-WRK-094: seen from the engine's side, where its request is over."""
    log = tmp_path / "attempts"
    with fake_process(dialect.name, log, "--token-ms", "5") as fake:
        client = new_client(dialect.name, transport, fake.base_url, API_KEY)
        request = request_of("x", max_tokens=1_000_000, correlation_id="that-left")
        async with aclosing(client.stream(request)) as stream:
            async for item in stream:
                if isinstance(item, Token):
                    break
        rows = await _until_over(log, "that-left")
    assert rows[-1]["sent"] < 1000


async def test_its_key_is_asked_for(
    client: EngineClient,
    fake: FakeProcess,
    transport: EngineTransport,
    dialect: DialectUnderTest,
) -> None:
    """LO-WRK-098: a wrong key proves nothing, nor does an engine that takes every one."""
    assert await client.prove_identity() is dialect.has_key
    stranger = new_client(dialect.name, transport, fake.base_url, "another key")
    assert await stranger.prove_identity() is False
    nobody = new_client(dialect.name, transport, fake.base_url, None)
    assert await nobody.prove_identity() is False


async def test_an_engine_that_takes_every_key_is_a_stranger(
    transport: EngineTransport, dialect: DialectUnderTest, tmp_path: Path
) -> None:
    """LO-WRK-098."""
    with fake_process(dialect.name, tmp_path / "a", "--fault", "wrong-identity") as fake:
        client = new_client(dialect.name, transport, fake.base_url, API_KEY)
        assert await client.prove_identity() is False


@pytest.mark.parametrize("fault", ["die-after-3", "crash-after-3"])
async def test_an_engine_that_dies_in_a_stream_is_lost(
    transport: EngineTransport, dialect: DialectUnderTest, tmp_path: Path, fault: str
) -> None:
    """LO-WRK-099: with what it said before, and gone for the next request."""
    with fake_process(dialect.name, tmp_path / "a", "--fault", fault) as fake:
        client = new_client(dialect.name, transport, fake.base_url, API_KEY)
        came, error = await failure_of(client, request_of("x"))
        assert isinstance(error, EngineLost)
        assert text_of(came) == " w0 w1 w2"
        fake.process.wait(DEADLINE_S)
        _, error = await failure_of(client, request_of("x"))
        assert isinstance(error, EngineUnreachable)


async def test_an_engine_that_loads_is_waited_for(
    transport: EngineTransport, dialect: DialectUnderTest, tmp_path: Path
) -> None:
    """LO-WRK-099: busy or not there yet, and then it serves."""
    options = ("--fault", "slow-start-700")
    with fake_process(dialect.name, tmp_path / "a", *options, listening=False) as fake:
        client = new_client(dialect.name, transport, fake.base_url, API_KEY)
        with anyio.fail_after(DEADLINE_S):
            while True:
                try:
                    seen = await client.observe()
                except (EngineBusy, EngineUnreachable):
                    await anyio.sleep(POLL_S)
                else:
                    break
        assert seen.ctx == dialect.ctx


async def _asked_for(client: EngineClient, workload: Workload) -> object:
    if workload is Workload.EMBEDDING:
        return await client.embed(EmbeddingRequest(inputs=("a",), correlation_id="c"))
    return await client.rerank(RerankRequest(query="q", documents=("a",), correlation_id="c"))


async def _until_over(log: Path, correlation_id: str) -> list[dict[str, int]]:
    """The rows of a request once its end is noted; the log is a file, which tells nobody."""
    file = anyio.Path(log)
    with anyio.fail_after(DEADLINE_S):
        while True:
            lines = (await file.read_text()).splitlines() if await file.exists() else []
            rows = [json.loads(line) for line in lines]
            rows = [row for row in rows if row["correlation_id"] == correlation_id]
            if rows and rows[-1]["event"] == "end":
                return rows
            await anyio.sleep(POLL_S)
