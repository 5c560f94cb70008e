"""Figures and words of an engine that means harm, or has a bug, stay within what we can hold.

A figure that our contracts or SQLite refuse would break far from its source: in the
row of the task, or in the snapshot of every pool.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import pytest

from contracts.pools import ReplicaView
from worker_adapters.answers import MESSAGE_CHARACTERS, read_json
from worker_adapters.base import GenerationRequest
from worker_adapters.errors import EngineFailed, EngineProtocolError
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.llamacpp_dialect import Props, Slot, answered_error, engine_version
from worker_adapters.tests.hostile import STREAM_HEAD, answer, events, hostile
from worker_adapters.transport import EngineTransport

REQUEST = GenerationRequest(prompt="x", max_tokens=2, seed=1, correlation_id="c-1")
PROPS: dict[str, Any] = {"default_generation_settings": {"n_ctx": 128}, "total_slots": 2}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "figure",
    [
        {"tokens_evaluated": -1},
        {"tokens_evaluated": 2**63},
        {"tokens_predicted": -1},
        {"tokens_predicted": 2**70},
        {"timings": {"cache_n": -1}},
        {"id_slot": -2},
        {"id_slot": 2**31},
    ],
)
async def test_a_final_event_with_an_impossible_figure_is_refused(
    transport: EngineTransport, figure: dict[str, Any]
) -> None:
    final = {"content": "", "stop": True, "stop_type": "eos"} | figure
    async with hostile([STREAM_HEAD, *events(json.dumps(final).encode())]) as server:
        client = LlamaCppClient(transport, server.base_url, "key")
        async with aclosing(client.stream(REQUEST)) as stream:
            with pytest.raises(EngineProtocolError):
                await anext(stream)


@pytest.mark.parametrize(
    "figure",
    [
        {"total_slots": 0},
        {"total_slots": -1},
        {"total_slots": 10**25},
        {"default_generation_settings": {"n_ctx": 0}},
        {"default_generation_settings": {"n_ctx": 2**31}},
    ],
)
def test_an_engine_of_an_impossible_size_is_refused(figure: dict[str, Any]) -> None:
    assert read_json(json.dumps(PROPS).encode(), Props).total_slots == 2
    with pytest.raises(EngineProtocolError):
        read_json(json.dumps(PROPS | figure).encode(), Props)


def test_a_long_version_is_cut_to_what_a_snapshot_holds() -> None:
    props = read_json(json.dumps(PROPS | {"build_info": "v" * 9_000}).encode(), Props)
    longest = ReplicaView.model_fields["engine_version"].metadata[0].max_length
    assert engine_version(props) == "v" * longest


def test_a_long_complaint_is_cut() -> None:
    body = json.dumps({"error": {"message": "E" * 900_000, "code": 500}}).encode()
    error = answered_error(500, body)
    assert isinstance(error, EngineFailed)
    assert len(str(error)) < MESSAGE_CHARACTERS + 50


@pytest.mark.parametrize(
    ("told", "work_done"),
    [
        ({"next_token": [{"n_decoded": 7, "n_remain": -1}]}, 19),
        ({"next_token": {"n_decoded": 7, "stopping_word": ""}}, 19),
        ({"next_token": []}, 12),
        ({}, 12),
    ],
)
def test_the_work_of_a_slot_is_read_in_every_shape_that_builds_give_it(
    told: dict[str, Any], work_done: int
) -> None:
    """LO-POOL-138."""
    row = {"is_processing": True, "id_task": 2, "n_prompt_tokens_processed": 10} | told
    assert read_json(json.dumps(row).encode(), Slot).work_done == work_done


def test_a_slot_that_was_never_used_tells_of_no_work() -> None:
    """LO-POOL-138."""
    assert read_json(b'{"id": 0, "n_ctx": 512, "is_processing": false}', Slot).work_done is None


PAGE = b"# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred "


def answers(props: dict[str, Any], metrics: tuple[int, bytes]) -> dict[bytes, bytes]:
    return {
        b"/props": answer(200, json.dumps(props).encode()),
        b"/slots": answer(200, b"[]"),
        b"/metrics": answer(*metrics, kind=b"text/plain"),
    }


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("metrics", "waiting"),
    [
        ((200, PAGE + b"3\n"), 3),
        ((200, PAGE + b"NaN\n"), None),
        ((200, b"<html>"), None),
        ((501, b'{"error":{"message":"off"}}'), None),
        ((404, b""), None),
    ],
)
async def test_waiting_requests_are_told_where_the_server_tells(
    transport: EngineTransport, metrics: tuple[int, bytes], waiting: int | None
) -> None:
    """LO-WRK-115."""
    async with hostile(answers(PROPS, metrics)) as server:
        seen = await LlamaCppClient(transport, server.base_url, "key").observe()
    assert seen.requests_waiting == waiting
    assert len(server.requests) == 3


@pytest.mark.anyio
@pytest.mark.parametrize("figure", [b"-1", b"1e300"])
async def test_an_impossible_number_of_waiting_requests_is_refused(
    transport: EngineTransport, figure: bytes
) -> None:
    """LO-WRK-115."""
    async with hostile(answers(PROPS, (200, PAGE + figure))) as server:
        with pytest.raises(EngineProtocolError, match="waiting"):
            await LlamaCppClient(transport, server.base_url, "key").observe()
