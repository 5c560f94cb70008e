"""Every error that TGI is known to have, and what it means."""

from __future__ import annotations

import json

import pytest

from contracts.errors import ErrorCode
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineProtocolError,
    EngineRefused,
)
from worker_adapters.tgi_refusals import (
    KINDS,
    answered_error,
    chat_error,
    stream_error,
)

INVALID, TOO_LONG = ErrorCode.INVALID_PARAMS, ErrorCode.CONTEXT_EXCEEDED
UNREADY, RESET = ErrorCode.POOL_UNREADY, ErrorCode.WORKER_RESET

KNOWN: list[tuple[int, str, str, type[EngineError], ErrorCode]] = [
    (422, "validation", "Input validation error: `top_p` must be", EngineRefused, INVALID),
    (
        422,
        "validation",
        "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000 `inputs` tokens and 100",
        EngineRefused,
        TOO_LONG,
    ),
    (
        422,
        "validation",
        "`inputs` must have less than 9 tokens. Given: 10",
        EngineRefused,
        TOO_LONG,
    ),
    (422, "validation", "`max_new_tokens` must be <= 9. Given: 10", EngineRefused, TOO_LONG),
    (422, "validation", "`max_new_tokens` must be strictly positive", EngineRefused, INVALID),
    (422, "template_error", "Template error: x", EngineRefused, INVALID),
    (422, "missing_template_variable", "Missing template variable: x", EngineRefused, INVALID),
    (422, "tool_error", "Tool error: x", EngineRefused, INVALID),
    (404, "no fast tokenizer", "No fast tokenizer or tokenizer.json", EngineRefused, INVALID),
    (424, "generation", "Request failed during generation: x", EngineFailed, RESET),
    (429, "overloaded", "Model is overloaded", EngineBusy, UNREADY),
    (503, "healthcheck", "unhealthy", EngineBusy, UNREADY),
    (500, "incomplete_generation", "Incomplete generation", EngineFailed, RESET),
    (500, "incomplete_generation_stream", "Incomplete generation stream", EngineFailed, RESET),
    (500, "stream_serialization_error", "x", EngineFailed, RESET),
]
"""Status, error type and words of TGI's `InferError` and `ValidationError`."""


def body_of(kind: str, message: str) -> bytes:
    return json.dumps({"error": message, "error_type": kind}).encode()


def test_every_kind_that_is_known_is_in_the_table() -> None:
    """LO-WRK-154."""
    assert {kind for _, kind, *_ in KNOWN} == set(KINDS)


@pytest.mark.parametrize(("status", "kind", "message", "error", "code"), KNOWN)
def test_every_error_has_its_meaning_as_an_answer_and_as_an_event(
    status: int, kind: str, message: str, error: type[EngineError], code: ErrorCode
) -> None:
    """LO-WRK-154: an event bears no status, and nearly all come as events."""
    body = body_of(kind, message)
    for said in (answered_error(status, body), stream_error(body)):
        assert (type(said), said.code) == (error, code)
        assert message[:20] in said.message


@pytest.mark.parametrize(
    ("status", "message", "error", "code"),
    [(status, message, error, code) for status, _, message, error, code in KNOWN if status != 404],
)
def test_every_error_has_its_meaning_in_a_chat(
    status: int, message: str, error: type[EngineError], code: ErrorCode
) -> None:
    """LO-WRK-154: there it has a status and no type."""
    body = json.dumps({"message": message, "http_status_code": status}).encode()
    said = chat_error(body)
    assert (type(said), said.code) == (error, code)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, EngineRefused),
        (413, EngineRefused),
        (422, EngineRefused),
        (401, EngineProtocolError),
        (404, EngineProtocolError),
        (415, EngineProtocolError),
        (501, EngineProtocolError),
        (502, EngineFailed),
    ],
)
def test_what_the_web_server_says_itself_is_plain_text(
    status: int, error: type[EngineError]
) -> None:
    """LO-WRK-154."""
    assert type(answered_error(status, b"Failed to parse the request body")) is error


@pytest.mark.parametrize("status", [*range(201, 208), *range(300, 600)])
def test_no_status_is_without_a_meaning(status: int) -> None:
    """LO-WRK-154."""
    assert isinstance(answered_error(status, b""), EngineError)


@pytest.mark.parametrize("body", [b"", b'"oh"', b"{}", b"\xff", b"[" * 100_000])
def test_an_error_of_no_shape_is_a_failure(body: bytes) -> None:
    """LO-WRK-154."""
    assert isinstance(stream_error(body), EngineFailed)
    assert isinstance(chat_error(body), EngineFailed)
