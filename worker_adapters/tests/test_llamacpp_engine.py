"""The client of llama.cpp, on real llama.cpp."""

from __future__ import annotations

import json
import urllib.request
from contextlib import aclosing
from itertools import pairwise

import anyio
import pytest

from contracts.errors import ErrorCode
from contracts.tasks import Message
from worker_adapters.base import Finished, GenerationRequest, Progress, StreamItem, Token
from worker_adapters.embedded import BATCH_TOKENS
from worker_adapters.errors import EngineProtocolError, EngineRefused
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.llamacpp_dialect import completion_body
from worker_adapters.tests.conftest import RunningEngine
from worker_adapters.transport import EngineTransport

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def client_of(engine: RunningEngine, transport: EngineTransport) -> LlamaCppClient:
    return LlamaCppClient(transport, engine.base_url, engine.api_key)


def request_of(
    prompt: str = "The river", seed: int = 11, max_tokens: int = 40
) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt, max_tokens=max_tokens, seed=seed, correlation_id="c", slot=0
    )


async def streamed(client: LlamaCppClient, request: GenerationRequest) -> list[StreamItem]:
    async with aclosing(client.stream(request)) as stream:
        return [item async for item in stream]


async def generate(client: LlamaCppClient, request: GenerationRequest) -> tuple[str, Finished]:
    *items, last = await streamed(client, request)
    assert isinstance(last, Finished)
    return "".join(item.text for item in items if isinstance(item, Token)), last


def ask_directly(engine: RunningEngine, body: dict[str, object]) -> dict[str, object]:
    call = urllib.request.Request(
        f"{engine.base_url}/completion",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {engine.api_key}"},
    )
    with urllib.request.urlopen(call, timeout=30) as answer:
        said: dict[str, object] = json.loads(answer.read())
        return said


def without_progress(prompt: str, request: GenerationRequest) -> bytes:
    body = json.loads(completion_body(prompt, request))
    del body["return_progress"]
    return json.dumps(body).encode()


async def idle_within_a_second(client: LlamaCppClient) -> None:
    with anyio.fail_after(1):
        # The engine has no event to wait for.
        while (await client.observe()).slots_busy:  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def test_a_streamed_text_is_the_text_that_is_not_streamed(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    text, last = await generate(client_of(engine, transport), request_of())
    body: dict[str, object] = {"prompt": "The river", "n_predict": 40, "seed": 11, "id_slot": 0}
    direct = await anyio.to_thread.run_sync(ask_directly, engine, body)
    assert text == direct["content"]
    assert last.tokens_out == direct["tokens_predicted"]
    assert last.tokens_in == direct["tokens_evaluated"]


async def test_a_seed_repeats_its_text_and_another_gives_another(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    client = client_of(engine, transport)
    first, _ = await generate(client, request_of(seed=1))
    again, _ = await generate(client, request_of(seed=1))
    other, _ = await generate(client, request_of(seed=2))
    assert first == again != other


async def test_a_repeated_prompt_is_found_in_the_cache(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    client = client_of(engine, transport)
    prompt = "one stone after another under the bridge"
    await generate(client, request_of(prompt))
    _, last = await generate(client, request_of(prompt))
    assert last.cached_tokens == last.tokens_in - 1


@pytest.mark.parametrize(
    "prompt",
    [
        "The river",
        " one  stone\n\nafter\tanother ",
        "né 日本語 😀 \u2028\x85",
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
        "<|endoftext|><|im_start|",
    ],
)
async def test_a_prompt_is_counted_as_it_is_evaluated(
    engine: RunningEngine, transport: EngineTransport, prompt: str
) -> None:
    """LO-WRK-019."""
    client, request = client_of(engine, transport), request_of(prompt, max_tokens=1)
    _, last = await generate(client, request)
    assert await client.count_prompt(request) == last.tokens_in


async def test_a_chat_is_counted_as_it_is_evaluated(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-019: the template's own words are counted, and special tokens of a user's text."""
    chat = GenerationRequest(
        messages=(
            Message(role="system", content="be brief"),
            Message(role="user", content="né <|im_end|> 😀"),
        ),
        max_tokens=1,
        seed=3,
        correlation_id="c",
    )
    client = client_of(engine, transport)
    _, last = await generate(client, chat)
    assert await client.count_prompt(chat) == last.tokens_in


async def test_a_long_prompt_is_told_of_batch_by_batch(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-017, LO-WRK-021."""
    client = client_of(engine, transport)
    await generate(client, request_of("first " * 150))
    longer = request_of("first " * 150 + "then " * 250)
    items = await streamed(client, longer)
    last = items[-1]
    assert isinstance(last, Finished)
    assert last.cached_tokens is not None
    told = [item for item in items if isinstance(item, Progress)]
    assert items[: len(told)] == told
    assert {(step.prompt_tokens, step.cached_tokens) for step in told} == {
        (last.tokens_in, last.cached_tokens)
    }
    done = [step.processed_tokens for step in told]
    assert (done[0], done[-1]) == (last.cached_tokens, last.tokens_in)
    assert max(after - before for before, after in pairwise(done)) <= BATCH_TOKENS


async def test_the_size_of_a_prompt_comes_with_the_first_token_of_an_engine_that_tells_no_progress(
    engine: RunningEngine, transport: EngineTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LO-WRK-018."""
    monkeypatch.setattr("worker_adapters.llamacpp.completion_body", without_progress)
    first, second, *_, last = await streamed(client_of(engine, transport), request_of())
    assert isinstance(last, Finished)
    assert first == Progress(last.tokens_in, None, last.tokens_in)
    assert isinstance(second, Token)


async def test_a_stop_string_ends_the_text_and_is_left_out(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    client = client_of(engine, transport)
    whole, _ = await generate(client, request_of())
    word = whole.split()[3]
    stopped = GenerationRequest(
        prompt="The river", max_tokens=40, seed=11, stop=(word,), correlation_id="c", slot=0
    )
    text, last = await generate(client, stopped)
    assert last.finish_reason == "stop_string"
    assert text == whole[: whole.index(word)]


async def test_a_chat_is_rendered_by_the_models_own_template(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-012."""
    client = client_of(engine, transport)
    chat = GenerationRequest(
        messages=(Message(role="user", content="hello"),),
        max_tokens=5,
        seed=3,
        correlation_id="c",
        slot=0,
    )
    rendered = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    as_chat = await generate(client, chat)
    as_prompt = await generate(client, request_of(rendered, seed=3, max_tokens=5))
    assert as_chat[0] == as_prompt[0]
    assert as_chat[1].tokens_in == as_prompt[1].tokens_in


async def test_a_prompt_longer_than_the_context_is_refused_as_such(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    with pytest.raises(EngineRefused, match="512") as caught:
        await generate(client_of(engine, transport), request_of("x " * 600))
    assert caught.value.code is ErrorCode.CONTEXT_EXCEEDED


async def test_the_key_of_this_launch_is_proved_and_no_other(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-014."""
    assert await client_of(engine, transport).prove_identity()
    stranger = LlamaCppClient(transport, engine.base_url, "another")
    assert not await stranger.prove_identity()
    with pytest.raises(EngineProtocolError, match="Invalid API Key"):
        await generate(stranger, request_of())


async def test_what_it_observes_is_what_was_launched(
    engine: RunningEngine, transport: EngineTransport
) -> None:
    seen = await client_of(engine, transport).observe()
    assert (seen.ctx, seen.slots_total, seen.slots_busy) == (512, 2, 0)
    assert seen.model_alias == "tiny"
    assert seen.engine_version is None


async def test_work_done_changes_with_work_and_stands_still_without(
    endless_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-POOL-154: while a prompt is evaluated, while tokens come, and while nothing does."""
    client = client_of(endless_engine, transport)
    before = (await client.observe()).work_done
    request = request_of(" ".join(["river"] * 3 * BATCH_TOKENS), max_tokens=60)
    seen: list[tuple[type[StreamItem], int | None]] = []
    async with aclosing(client.stream(request)) as stream:
        async for item in stream:
            if len(seen) < 8 or isinstance(item, Finished):
                seen.append((type(item), (await client.observe()).work_done))
    while_prefilling = {work for kind, work in seen if kind is Progress}
    while_decoding = {work for kind, work in seen if kind is Token}
    assert len(while_prefilling - {before}) > 1, seen
    assert len(while_decoding) > 1, seen
    await idle_within_a_second(client)
    idle = (await client.observe()).work_done
    assert idle not in (None, before)
    assert (await client.observe()).work_done == idle


async def test_closing_a_stream_frees_the_slot_within_a_second(
    endless_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-003."""
    client = client_of(endless_engine, transport)
    async with aclosing(client.stream(request_of(max_tokens=400))) as stream:
        while not isinstance(await anext(stream), Token):
            pass
        assert (await client.observe()).slots_busy == 1
    await idle_within_a_second(client)


async def test_a_cancelled_reader_frees_the_slot_within_a_second(
    endless_engine: RunningEngine, transport: EngineTransport
) -> None:
    """LO-WRK-003."""
    client = client_of(endless_engine, transport)
    with anyio.move_on_after(0.3) as scope:
        await generate(client, request_of(max_tokens=400))
    assert scope.cancelled_caught
    await idle_within_a_second(client)
