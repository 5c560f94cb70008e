"""What the client tells of a prompt before its first token."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import pytest

from contracts.tasks import Message
from worker_adapters.base import Finished, GenerationRequest, Progress, StreamItem, Token
from worker_adapters.errors import EngineProtocolError
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.tests.hostile import STREAM_HEAD, answer, events, hostile
from worker_adapters.transport import EngineTransport

pytestmark = pytest.mark.anyio

REQUEST = GenerationRequest(prompt="x", max_tokens=2, seed=1, correlation_id="c-1")
FINAL = json.dumps({"content": "", "stop": True, "stop_type": "eos", "tokens_evaluated": 9})
END = Finished("stop", 9, 0, None)


def progress(**figures: Any) -> str:
    said = {"total": 9, "cache": 4, "processed": 4, "time_ms": 1} | figures
    return json.dumps(
        {"content": "", "tokens": [0], "tokens_predicted": 0, "prompt_progress": said}
    )


def token(text: str, **fields: Any) -> str:
    return json.dumps({"content": text, "tokens": [5]} | fields)


async def streamed(transport: EngineTransport, *payloads: str) -> list[StreamItem]:
    body = events(*(payload.encode() for payload in payloads))
    async with hostile([STREAM_HEAD, *body]) as server:
        client = LlamaCppClient(transport, server.base_url, "key")
        async with aclosing(client.stream(REQUEST)) as stream:
            return [item async for item in stream]


async def test_progress_comes_before_the_first_token(transport: EngineTransport) -> None:
    """LO-WRK-017."""
    said = [progress(), progress(processed=7), progress(processed=9), token("a"), FINAL]
    assert await streamed(transport, *said) == [
        Progress(9, 4, 4),
        Progress(9, 4, 7),
        Progress(9, 4, 9),
        Token("a"),
        END,
    ]


async def test_progress_that_stands_still_or_goes_back_is_none(transport: EngineTransport) -> None:
    """LO-WRK-017: an engine that hangs cannot seem to work by saying so again."""
    said = [progress(processed=7), progress(processed=7), progress(processed=5), token("a"), FINAL]
    assert await streamed(transport, *said) == [Progress(9, 4, 7), Token("a"), END]


async def test_progress_after_the_first_token_is_ignored(transport: EngineTransport) -> None:
    """LO-WRK-017."""
    assert await streamed(transport, token("a"), progress(), FINAL) == [Token("a"), END]


async def test_a_cache_that_is_not_told_of_is_unknown(transport: EngineTransport) -> None:
    assert (await streamed(transport, progress(cache=None), FINAL))[0] == Progress(9, None, 4)


async def test_the_first_token_tells_the_size_of_the_prompt_where_nothing_did(
    transport: EngineTransport,
) -> None:
    """LO-WRK-018."""
    said = [token(text, tokens_evaluated=9) for text in ("a", "b")]
    told = [Progress(9, None, 9), Token("a"), Token("b"), END]
    assert await streamed(transport, *said, FINAL) == told


async def test_the_first_token_adds_nothing_to_progress_that_was_told(
    transport: EngineTransport,
) -> None:
    said = [progress(processed=9), token("a", tokens_evaluated=9), FINAL]
    assert await streamed(transport, *said) == [Progress(9, 4, 9), Token("a"), END]


async def test_text_within_a_progress_event_is_not_lost(transport: EngineTransport) -> None:
    said = json.dumps({"content": "a", "prompt_progress": {"total": 9, "processed": 9}})
    assert await streamed(transport, said, FINAL) == [Progress(9, None, 9), Token("a"), END]


@pytest.mark.parametrize(
    "figures",
    [
        {"total": -1},
        {"total": 2**31},
        {"processed": -1},
        {"processed": 10},
        {"processed": "many"},
        {"cache": -1},
        {"cache": 10},
    ],
)
async def test_impossible_progress_is_refused(
    transport: EngineTransport, figures: dict[str, Any]
) -> None:
    """LO-WRK-020."""
    with pytest.raises(EngineProtocolError):
        await streamed(transport, progress(**figures), FINAL)


async def test_a_prompt_that_changes_its_size_is_refused(transport: EngineTransport) -> None:
    """LO-WRK-020: its progress would have no end."""
    with pytest.raises(EngineProtocolError, match="9 tokens, then of one of 10"):
        await streamed(transport, progress(), progress(total=10, processed=10), FINAL)


async def test_a_prompt_is_counted_as_the_engine_reads_it(transport: EngineTransport) -> None:
    """LO-WRK-019: special tokens are recognised, and the leading one is added."""
    async with hostile([answer(200, b'{"tokens":[1,2,3]}')]) as server:
        client = LlamaCppClient(transport, server.base_url, "key")
        assert await client.count_prompt(REQUEST) == 3
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /tokenize ")
    assert json.loads(body) == {"content": "x", "add_special": True, "parse_special": True}


async def test_a_chat_is_rendered_before_it_is_counted(transport: EngineTransport) -> None:
    """LO-WRK-019."""
    chat = GenerationRequest(
        messages=(Message(role="user", content="hello"),),
        max_tokens=1,
        seed=1,
        correlation_id="c-1",
    )
    both = b'{"prompt":"<user>hello","tokens":[1,2,3,4]}'
    async with hostile([answer(200, both)]) as server:
        client = LlamaCppClient(transport, server.base_url, "key")
        assert await client.count_prompt(chat) == 4
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests]
    assert bodies[0] == {"messages": [{"role": "user", "content": "hello"}]}
    assert bodies[1]["content"] == "<user>hello"
