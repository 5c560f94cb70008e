"""What a real vLLM said, as `record_vllm` wrote it down, read again by the adapter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

import pytest

from contracts.errors import ErrorCode
from test_harness.conformance.asking import failure_of, finished_of, items_of, request_of, text_of
from test_harness.conformance.record_vllm import TRANSCRIPTS, calls
from worker_adapters.base import Progress, StreamItem
from worker_adapters.errors import EngineError, EngineFailed, EngineProtocolError, EngineRefused
from worker_adapters.exposition import figures
from worker_adapters.openai_dialect import answered_error
from worker_adapters.tests.hostile import LAST_CHUNK, STREAM_HEAD, chunk, hostile
from worker_adapters.transport import EngineTransport
from worker_adapters.vllm import FIGURES, VllmClient

INVALID, TOO_LONG = ErrorCode.INVALID_PARAMS, ErrorCode.CONTEXT_EXCEEDED
FOREIGN, FAILED = ErrorCode.UPSTREAM_PROTOCOL, ErrorCode.WORKER_RESET
REFUSED: dict[str, tuple[type[EngineError], ErrorCode]] = {
    "400-not-json": (EngineRefused, INVALID),
    "404-unknown-model": (EngineProtocolError, FOREIGN),
    "400-too-long": (EngineRefused, TOO_LONG),
    "400-chat-too-long": (EngineRefused, TOO_LONG),
    "400-too-many-tokens": (EngineRefused, INVALID),
    "400-wrong-type": (EngineRefused, INVALID),
    "400-temperature": (EngineRefused, INVALID),
    "400-token-id": (EngineRefused, INVALID),
    "400-no-prompt": (EngineRefused, INVALID),
    "400-empty-prompt": (EngineRefused, INVALID),
    "400-too-many-stops": (EngineRefused, INVALID),
    "400-tools": (EngineRefused, INVALID),
    "404-unknown-path": (EngineProtocolError, FOREIGN),
    "405-wrong-method": (EngineProtocolError, FOREIGN),
    "401-wrong-key": (EngineProtocolError, FOREIGN),
    "500-dead": (EngineFailed, FAILED),
}
FAILED_WITHIN: dict[str, type[EngineError]] = {
    "200-core-killed": EngineFailed,
    "200-bad-grammar": EngineRefused,
    "200-bad-schema": EngineRefused,
}
ENDED: dict[str, tuple[str, int]] = {
    "200-completion": ("length", 5),
    "200-chat": ("length", 5),
    "200-stop-string": ("stop_string", 3),
    "200-grammar": ("stop", 4),
    "200-long-first": ("length", 5),
    "200-long-again": ("length", 5),
}


def test_every_refusal_that_vllm_gave_has_its_code() -> None:
    """LO-WRK-130: all that were recorded, and nothing left out."""
    recorded = {
        file.stem: file for file in TRANSCRIPTS.glob("*.json") if not file.name.startswith("200")
    }
    assert set(recorded) == set(REFUSED)
    for name, (kind, code) in REFUSED.items():
        meant = answered_error(int(name[:3]), recorded[name].read_bytes())
        assert (type(meant), meant.code) == (kind, code), name


def test_every_call_was_recorded() -> None:
    """LO-WRK-130."""
    recorded = {file.stem.partition("-")[2] for file in TRANSCRIPTS.iterdir()}
    assert recorded == {call.name for call in calls()} | {"wrong-key", "core-killed", "dead"}


Cut = Callable[[bytes], list[bytes]]
CUTS: list[Cut] = [
    lambda body: [body],
    lambda body: [body[at : at + 7] for at in range(0, len(body), 7)],
]


async def replayed(transport: EngineTransport, name: str, cut: Cut) -> list[StreamItem]:
    body = (TRANSCRIPTS / f"{name}.events").read_bytes()
    pieces = [chunk(piece) for piece in cut(body)]
    async with hostile([STREAM_HEAD, *pieces, LAST_CHUNK]) as server:
        return await items_of(VllmClient(transport, server.base_url, "k"), request_of())


@pytest.mark.anyio
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ENDED)
async def test_a_recorded_stream_is_read_whole(
    transport: EngineTransport, name: str, cut: Cut
) -> None:
    """LO-WRK-131."""
    items = await replayed(transport, name, cut)
    end = finished_of(items)
    assert (end.finish_reason, end.tokens_out) == ENDED[name]
    assert isinstance(items[0], Progress)
    assert items[0].prompt_tokens == end.tokens_in
    assert text_of(items)
    assert (end.cached_tokens or 0) == (128 if name == "200-long-again" else 0)


@pytest.mark.anyio
async def test_a_recorded_text_ends_by_itself(transport: EngineTransport) -> None:
    end = finished_of(await replayed(transport, "200-ended-by-itself", CUTS[0]))
    assert end.finish_reason == "stop"
    assert end.tokens_out < 400


@pytest.mark.anyio
@pytest.mark.parametrize("name", FAILED_WITHIN)
async def test_a_failure_within_a_recorded_stream_is_none_of_its_successes(
    transport: EngineTransport, name: str
) -> None:
    """LO-WRK-131: though each of them ends with `[DONE]`."""
    body = (TRANSCRIPTS / f"{name}.events").read_bytes()
    assert body.endswith(b"data: [DONE]\n\n")
    async with hostile([STREAM_HEAD, chunk(body), LAST_CHUNK]) as server:
        client = VllmClient(transport, server.base_url, "k")
        _, error = await failure_of(client, request_of())
    assert type(error) is FAILED_WITHIN[name]


@pytest.mark.anyio
async def test_no_beginning_of_a_recorded_stream_is_a_success(transport: EngineTransport) -> None:
    """LO-WRK-131, LO-WRK-007: wherever it breaks off before its last event."""
    events = (TRANSCRIPTS / "200-completion.events").read_bytes().split(b"\n\n")[:-2]
    for count in range(len(events) + 1):
        pieces = [chunk(event + b"\n\n") for event in events[:count]]
        async with hostile([STREAM_HEAD, *pieces, LAST_CHUNK]) as server:
            async with aclosing(
                VllmClient(transport, server.base_url, "k").stream(request_of())
            ) as stream:
                with pytest.raises(EngineProtocolError):
                    _ = [item async for item in stream]


def test_every_figure_is_on_the_recorded_page() -> None:
    """LO-WRK-139."""
    page = (TRANSCRIPTS / "200-metrics.txt").read_bytes()
    assert set(figures(page, FIGURES)) == FIGURES
