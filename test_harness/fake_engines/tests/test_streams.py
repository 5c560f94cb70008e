"""Every fault of a stream, and what the client of the real engine makes of it."""

from __future__ import annotations

from contextlib import aclosing

import anyio
import pytest

from contracts.tasks import Message
from test_harness.fake_engines.faults import ODD_WORDS
from test_harness.fake_engines.tests.conftest import Serving, request_of, text_of
from worker_adapters.base import Finished, GenerationRequest, Progress, Token
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
HARMLESS = ["slice-1", "slice-3", "mixed-line-ends", "bom", "foreign-events", "no-progress"]


@pytest.mark.parametrize("fault", HARMLESS)
async def test_what_an_engine_may_do_changes_nothing(serving: Serving, fault: str) -> None:
    """LO-WRK-005."""
    async with serving("--fault", fault) as asked:
        items = await asked.items("The river")
    assert text_of(items) == PLAIN
    assert isinstance(items[-1], Finished)


ON_THE_WIRE = [
    ("slice-1", b"\r\n1\r\nd\r\n1\r\na\r\n"),
    ("slice-3", b"\r\n3\r\ndat\r\n"),
    ("split-utf8", b"\xc3\r\n"),
    ("split-utf8", b"\x80\xa8"),
    ("mixed-line-ends", b"}\r\r"),
    ("mixed-line-ends", b"}\n\r\n"),
    ("bom", b"\r\n\xef\xbb\xbf\r\n"),
    ("foreign-events", b"event: execute\nid: 0\nretry: 1\n"),
]


@pytest.mark.parametrize(("fault", "bytes_of_it"), ON_THE_WIRE)
async def test_what_is_odd_is_really_on_the_wire(
    serving: Serving, fault: str, bytes_of_it: bytes
) -> None:
    body = b'{"prompt":"x","n_predict":9}'
    async with serving("--fault", fault) as asked:
        port = int(asked.base_url.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"POST /completion HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
            await stream.send(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            assert bytes_of_it in b"".join([part async for part in stream])


async def test_odd_characters_survive_every_way_of_writing_them(serving: Serving) -> None:
    """LO-WRK-004, LO-WRK-005."""
    together = ["split-utf8", *HARMLESS[2:5]]
    wishes = " ".join(f"fault={fault}" for fault in together)
    async with serving() as asked:
        for slices in ("", " fault=slice-1", " fault=slice-2"):
            items = await asked.items(wishes + slices, max_tokens=12 * len(ODD_WORDS))
            assert text_of(items) == "".join(ODD_WORDS) * 12


BROKEN: list[tuple[str, type[EngineError]]] = [
    ("bad-json", EngineProtocolError),
    ("foreign-data", EngineProtocolError),
    ("endless-line", EngineProtocolError),
    ("cut-chunk", EngineLost),
    ("html", EngineProtocolError),
    ("status-400", EngineRefused),
    ("status-429", EngineBusy),
    ("status-500", EngineFailed),
    ("status-503", EngineBusy),
    ("no-final", EngineProtocolError),
    ("two-finals", EngineProtocolError),
    ("bad-figures", EngineProtocolError),
]


@pytest.mark.parametrize(("fault", "error"), BROKEN)
async def test_what_an_engine_may_not_do_is_an_error(
    serving: Serving, fault: str, error: type[EngineError]
) -> None:
    """LO-WRK-006, LO-WRK-007."""
    async with serving() as asked:
        with pytest.raises(error):
            await asked.items(f"fault={fault}")
        # Another stream of the same engine is a good one.
        assert text_of(await asked.items("The river")) == PLAIN


@pytest.mark.parametrize("fault", ["bad-json", "foreign-data", "endless-line", "cut-chunk"])
async def test_a_fault_can_wait_for_tokens(serving: Serving, fault: str) -> None:
    tokens: list[Token] = []

    async def read() -> None:
        async with aclosing(asked.client.stream(request_of("The river"))) as stream:
            async for item in stream:
                tokens.extend([item] if isinstance(item, Token) else [])

    async with serving("--fault", f"{fault}-2") as asked:
        assert text_of(await asked.items("a canary", max_tokens=1)) == " w0"
        with pytest.raises(EngineError):
            await read()
    assert len(tokens) == 2


async def test_an_engine_that_is_full_says_when_to_come_back(serving: Serving) -> None:
    async with serving("--fault", "status-503") as asked:
        with pytest.raises(EngineBusy) as caught:
            await asked.items("The river")
    assert caught.value.retry_after_ms == 1000


@pytest.mark.parametrize("fault", ["silent-after-accept", "hang-after-2"])
async def test_a_silent_engine_is_silent_until_its_client_leaves(
    serving: Serving, fault: str
) -> None:
    async with serving() as asked:
        with anyio.move_on_after(0.2) as scope:
            await asked.items(f"fault={fault}")
        assert scope.cancelled_caught
        # Its only slot is free again.
        with anyio.fail_after(5):
            await asked.items("The river")


async def test_a_flood_is_as_many_megabytes_as_were_asked_for(serving: Serving) -> None:
    async with serving() as asked:
        items = await asked.items("fault=flood-3", max_tokens=1_000)
    assert len(text_of(items)) == 3_000_000
    assert max(len(item.text) for item in items if isinstance(item, Token)) == 10_000


async def test_a_bound_on_tokens_can_be_ignored(serving: Serving) -> None:
    async with serving() as asked:
        last = await asked.finished("len=7 fault=ignore-n-predict", max_tokens=3)
    assert (last.tokens_out, last.finish_reason) == (7, "stop")


@pytest.mark.parametrize(
    ("prompt", "most", "tokens", "reason"),
    [
        ("say len=37 please", 100, 37, "stop"),
        ("len=37", 36, 36, "length"),
        ("len=4", 4, 4, "length"),
        ("len=9 then len=2", 100, 2, "stop"),
        ("The river", 6, 6, "length"),
    ],
)
async def test_a_prompt_chooses_how_long_its_answer_gets(
    serving: Serving, prompt: str, most: int, tokens: int, reason: str
) -> None:
    async with serving() as asked:
        last = await asked.finished(prompt, max_tokens=most)
    assert (last.tokens_out, last.finish_reason) == (tokens, reason)


async def test_a_fault_that_there_is_not_is_refused(serving: Serving) -> None:
    async with serving() as asked:
        with pytest.raises(EngineRefused, match="no fault `slcie-1`"):
            await asked.items("fault=slcie-1")


async def test_it_counts_what_it_evaluates(serving: Serving) -> None:
    """LO-WRK-019."""
    chat = GenerationRequest(
        messages=(Message(role="user", content="one two"),),
        max_tokens=1,
        seed=1,
        correlation_id="c",
    )
    async with serving() as asked:
        async with aclosing(asked.client.stream(chat)) as stream:
            *_, last = [item async for item in stream]
        assert isinstance(last, Finished)
        assert await asked.client.count_prompt(chat) == last.tokens_in == 4


async def test_an_engine_that_tells_no_progress_tells_its_size_with_the_first_token(
    serving: Serving,
) -> None:
    """LO-WRK-018."""
    async with serving("--fault", "no-progress") as asked:
        items = await asked.items("one two three")
    assert items[0] == Progress(3, None, 3)
