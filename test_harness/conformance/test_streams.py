"""What every adapter makes of a stream, good or bad, over a real process and real sockets."""

from __future__ import annotations

from contextlib import aclosing

import anyio
import pytest

from contracts.errors import ErrorCode
from contracts.tasks import Message, Workload
from test_harness.conformance.asking import (
    failure_of,
    finished_of,
    items_of,
    request_of,
    text_of,
)
from test_harness.conformance.engines import DialectUnderTest
from test_harness.fake_engines.faults import ODD_WORDS
from worker_adapters.base import EngineClient, Progress, Token
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineLost,
    EngineProtocolError,
    EngineRefused,
)

pytestmark = pytest.mark.anyio

PLAIN = " w0 w1 w2 w3 w4"
SILENCE_S = 0.3
HARMLESS = ["slice-1", "slice-3", "mixed-line-ends", "bom", "foreign-events", "no-progress"]
FATAL: list[tuple[str, type[EngineError], str]] = [
    ("html", EngineProtocolError, ""),
    ("status-500", EngineFailed, ""),
    ("bad-json", EngineProtocolError, ""),
    ("bad-json-3", EngineProtocolError, " w0 w1 w2"),
    ("foreign-data", EngineProtocolError, ""),
    ("foreign-data-3", EngineProtocolError, " w0 w1 w2"),
    ("endless-line-2", EngineProtocolError, " w0 w1"),
    ("cut-chunk", EngineLost, ""),
    ("cut-chunk-2", EngineLost, " w0 w1"),
    ("error", EngineFailed, ""),
    ("error-3", EngineFailed, " w0 w1 w2"),
    ("no-final", EngineProtocolError, PLAIN),
    ("two-finals", EngineProtocolError, PLAIN),
    ("bad-figures", EngineProtocolError, PLAIN),
]


async def test_a_completion_is_its_text_and_its_figures(
    client: EngineClient, dialect: DialectUnderTest
) -> None:
    """LO-WRK-090."""
    items = await items_of(client, request_of("The river of that day"))
    end = finished_of(items)
    assert text_of(items) == PLAIN
    assert (end.finish_reason, end.tokens_out) == ("length", 5)
    assert not dialect.tells_prompt or end.tokens_in == 5


async def test_a_text_that_ends_by_itself_says_so(client: EngineClient) -> None:
    """LO-WRK-090."""
    items = await items_of(client, request_of("len=3", max_tokens=9))
    assert text_of(items) == " w0 w1 w2"
    assert finished_of(items).finish_reason == "stop"


async def test_a_chat_goes_through_the_engines_own_template(
    client: EngineClient, dialect: DialectUnderTest
) -> None:
    """LO-WRK-090: it has more tokens than what was said, and keeps the words."""
    if Workload.CHAT not in dialect.workloads:
        pytest.skip(f"{dialect.name} has no chat template")
    request = request_of(None, messages=(Message(role="user", content="len=2 please"),))
    items = await items_of(client, request)
    assert text_of(items) == " w0 w1"
    end = finished_of(items)
    assert not dialect.tells_prompt or end.tokens_in > len(["len=2", "please"])


async def test_what_is_cached_is_told(client: EngineClient, dialect: DialectUnderTest) -> None:
    """LO-WRK-095: and nothing of it where the cache may not be used."""
    words = f"a prompt that is only asked here of {dialect.name} by this test"
    first = finished_of(await items_of(client, request_of(words)))
    again = finished_of(await items_of(client, request_of(words)))
    cold = finished_of(await items_of(client, request_of(words, cache_prompt=False)))
    if not dialect.tells_cache:
        assert first.cached_tokens is again.cached_tokens is cold.cached_tokens is None
        return
    assert first.cached_tokens == 0
    assert (again.cached_tokens or 0) > 0
    assert not cold.cached_tokens


@pytest.mark.parametrize("fault", HARMLESS)
async def test_what_an_engine_may_do_changes_nothing(client: EngineClient, fault: str) -> None:
    """LO-WRK-091: S-5."""
    items = await items_of(client, request_of(f"fault={fault}"))
    assert text_of(items) == PLAIN
    finished_of(items)


async def test_characters_survive_whatever_cuts_them(client: EngineClient) -> None:
    """LO-WRK-091: S-5, bytes of a character in two packets, and all that ends a line elsewhere."""
    odd = request_of("fault=split-utf8", max_tokens=len(ODD_WORDS))
    assert text_of(await items_of(client, odd)) == "".join(ODD_WORDS)


@pytest.mark.parametrize(("fault", "kind", "text"), FATAL)
async def test_a_stream_that_goes_wrong_fails_as_what_it_is(
    client: EngineClient,
    dialect: DialectUnderTest,
    fault: str,
    kind: type[EngineError],
    text: str,
) -> None:
    """LO-WRK-092: S-6, with the text that came before and no `Finished`."""
    if fault in dialect.unspoken:
        pytest.skip(f"the wire format of {dialect.name} cannot carry {fault}")
    came, error = await failure_of(client, request_of(f"fault={fault}"))
    assert type(error) is kind
    assert text_of(came) == text
    assert all(isinstance(item, Token | Progress) for item in came)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_full_engine_is_busy_and_says_for_how_long(
    client: EngineClient, status: int
) -> None:
    """LO-WRK-093."""
    _, error = await failure_of(client, request_of(f"fault=status-{status}"))
    assert isinstance(error, EngineBusy)
    assert error.retry_after_ms == 1000
    assert error.code is ErrorCode.POOL_UNREADY


async def test_a_refusal_is_no_failure(client: EngineClient) -> None:
    """LO-WRK-093: trying it again would change nothing."""
    _, error = await failure_of(client, request_of("fault=status-400"))
    assert isinstance(error, EngineRefused)
    assert error.code is ErrorCode.INVALID_PARAMS
    assert not error.retriable


async def test_a_prompt_beyond_the_context_is_refused_as_such(client: EngineClient) -> None:
    """LO-WRK-093."""
    _, error = await failure_of(client, request_of("word " * 5000))
    assert isinstance(error, EngineRefused)
    assert error.code is ErrorCode.CONTEXT_EXCEEDED


@pytest.mark.parametrize("fault", ["silent-after-accept", "hang-after-2"])
async def test_a_silent_engine_is_left_to_the_callers_clock(
    client: EngineClient, fault: str
) -> None:
    """LO-WRK-094: the adapter adds no clock of its own, and closes at once when told."""
    came: list[object] = []
    with anyio.move_on_after(SILENCE_S) as clock:
        async with aclosing(client.stream(request_of(f"fault={fault}"))) as stream:
            async for item in stream:
                came.append(item)
    assert clock.cancelled_caught
    assert sum(isinstance(item, Token) for item in came) == (2 if "2" in fault else 0)


async def test_a_megabyte_of_tokens_passes(client: EngineClient) -> None:
    """LO-WRK-091."""
    items = await items_of(client, request_of("fault=flood-1", max_tokens=1000))
    assert len(text_of(items)) == 1_000_000
