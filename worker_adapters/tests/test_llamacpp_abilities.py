"""What a llama.cpp server can be asked for, read from what it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.engines import Feature
from contracts.tasks import Workload
from worker_adapters.answers import read_json
from worker_adapters.base import EngineCapabilities
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineProtocolError,
    EngineRefused,
)
from worker_adapters.llamacpp import LlamaCppClient
from worker_adapters.llamacpp_abilities import abilities, is_served
from worker_adapters.llamacpp_dialect import Props, Slot
from worker_adapters.tests.hostile import answer, hostile
from worker_adapters.transport import Answer, EngineTransport

PROPS: dict[str, Any] = {"default_generation_settings": {"n_ctx": 128}, "total_slots": 1}
SLOT = {"is_processing": False, "speculative": False}


def told(
    props: dict[str, Any] | None = None,
    slots: list[dict[str, Any]] | None = None,
    *,
    embeds: bool = False,
    ranks: bool = False,
) -> EngineCapabilities:
    rows = None if slots is None else read_json(json.dumps(slots).encode(), list[Slot])
    read = read_json(json.dumps(PROPS | (props or {})).encode(), Props)
    return abilities(read, rows, embeds=embeds, ranks=ranks)


def probed(status: int, message: str = "why") -> Answer:
    body = json.dumps({"error": {"message": message, "code": status}}).encode()
    return Answer(status, {}, body)


def test_a_server_of_vectors_serves_nothing_else() -> None:
    """LO-WRK-105: one that ranks answers to embeddings too, with numbers that mean nothing."""
    assert told(embeds=True).workloads == {Workload.EMBEDDING}
    assert told(embeds=True, ranks=True).workloads == {Workload.RERANK}
    assert told().workloads == {Workload.COMPLETION, Workload.CHAT}
    assert Feature.SEED not in told(embeds=True).features


@pytest.mark.parametrize(
    ("caps", "knows"), [(None, False), ({}, False), ({"supports_tools": True}, True)]
)
def test_tools_are_known_where_the_template_knows_them(
    caps: dict[str, bool] | None, knows: bool
) -> None:
    """LO-WRK-107."""
    assert (Feature.TOOLS in told({"chat_template_caps": caps}).features) is knows


@pytest.mark.parametrize(
    ("props", "slots", "words"),
    [
        ({}, [SLOT], None),
        ({"total_slots": 2}, [SLOT, SLOT], "set `slots: 1`"),
        ({}, [SLOT | {"speculative": True}], "draft"),
        ({}, [{"is_processing": False}], "does not tell"),
        ({}, [], "does not tell"),
        ({}, None, "--slots"),
    ],
)
def test_strict_output_is_refused_where_bytes_may_differ_and_the_remedy_named(
    props: dict[str, Any], slots: list[dict[str, Any]] | None, words: str | None
) -> None:
    """LO-WRK-108."""
    refusal = told(props, slots).strict_refusal
    if words is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert words in refusal
        assert len(refusal) <= 512


@pytest.mark.parametrize(
    ("status", "served"), [(400, True), (404, False), (405, False), (501, False)]
)
def test_a_route_tells_whether_it_serves(status: int, served: bool) -> None:
    """LO-WRK-105."""
    assert is_served(probed(status)) is served


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((200, EngineProtocolError), (307, EngineProtocolError), (401, EngineProtocolError)),
        *((503, EngineBusy), (429, EngineBusy), (500, EngineFailed)),
    ],
)
def test_a_route_that_does_not_tell_now_is_not_guessed_at(
    status: int, kind: type[EngineError]
) -> None:
    """LO-WRK-105."""
    with pytest.raises(kind):
        is_served(probed(status))


def test_a_model_that_names_no_pooling_is_refused_with_the_remedy() -> None:
    """LO-WRK-106."""
    said = "Pooling type 'none' is not OAI compatible. Please use a different pooling type"
    with pytest.raises(EngineRefused, match="--pooling"):
        is_served(probed(400, said))


@pytest.mark.anyio
async def test_a_server_that_still_loads_tells_nothing(transport: EngineTransport) -> None:
    """LO-WRK-105."""
    loading = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
    async with hostile([answer(503, loading)]) as server:
        with pytest.raises(EngineBusy, match="Loading"):
            await LlamaCppClient(transport, server.base_url, "key").capabilities()
