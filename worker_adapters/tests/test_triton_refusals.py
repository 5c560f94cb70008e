"""Every error that Triton is known to have, and what it means."""

from __future__ import annotations

import json
import re

import pytest

from contracts.errors import ErrorCode
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineProtocolError,
    EngineRefused,
)
from worker_adapters.triton_refusals import WORDS, answered_error, stream_error

INVALID, TOO_LONG = ErrorCode.INVALID_PARAMS, ErrorCode.CONTEXT_EXCEEDED
UNREADY, RESET = ErrorCode.POOL_UNREADY, ErrorCode.WORKER_RESET
FOREIGN = ErrorCode.UPSTREAM_PROTOCOL

SEEN: list[tuple[int, str, type[EngineError], ErrorCode]] = [
    (400, "Model version not ready", EngineBusy, UNREADY),
    (404, "Request for unknown model: 'nope' is not found", EngineBusy, UNREADY),
    (400, "requested model 'nope' is not available", EngineBusy, UNREADY),
    (
        500,
        "failed to parse the request JSON buffer: Missing a comma or '}' after an object member.",
        EngineRefused,
        INVALID,
    ),
    (
        500,
        "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
        EngineRefused,
        INVALID,
    ),
    (
        400,
        "parameter 'foo' has invalid type. It should be either 'int', 'bool', or 'string'.",
        EngineRefused,
        INVALID,
    ),
    (
        400,
        "The schema can not convert input 'text_input' to tensor with proper shape",
        EngineRefused,
        INVALID,
    ),
    (405, "Method Not Allowed", EngineProtocolError, FOREIGN),
    (
        501,
        "ModelInfer RPC doesn't support models with decoupled transaction policy",
        EngineProtocolError,
        FOREIGN,
    ),
    (
        200,
        (
            "generate expects model to produce exactly 1 response, use generate stream for model"
            " that generates various number of responses"
        ),
        EngineProtocolError,
        FOREIGN,
    ),
    (503, "Exceeds maximum queue size", EngineBusy, UNREADY),
    (400, "Prompt length (600) exceeds maximum input length (512).", EngineRefused, TOO_LONG),
    (
        400,
        "This model's maximum context length is 2048 tokens. However, you requested 3000",
        EngineRefused,
        TOO_LONG,
    ),
]
"""What the server answers in JSON; those of 2.51.0 as it worded them."""


@pytest.mark.parametrize(("status", "message", "error", "code"), SEEN)
def test_every_answer_has_its_meaning(
    status: int, message: str, error: type[EngineError], code: ErrorCode
) -> None:
    """LO-WRK-162."""
    said = answered_error(status, json.dumps({"error": message}).encode())
    assert (type(said), said.code) == (error, code)


@pytest.mark.parametrize("words", [words for words, _ in WORDS])
def test_no_words_of_the_table_are_idle(words: str) -> None:
    """LO-WRK-162."""
    assert any(re.search(words, message, re.IGNORECASE) for _, message, *_ in SEEN)


@pytest.mark.parametrize(
    ("message", "error", "code"),
    [
        ("boom happened", EngineFailed, RESET),
        ("Stub process 'tiny_0_1' is not healthy.", EngineFailed, RESET),
        ("Prompt length (600) exceeds maximum input length (512).", EngineRefused, TOO_LONG),
        ("Exceeds maximum queue size", EngineBusy, UNREADY),
    ],
)
def test_what_a_model_says_means_the_same_first_and_later(
    message: str, error: type[EngineError], code: ErrorCode
) -> None:
    """LO-WRK-162: its first response is an event under 400, a later one under 200."""
    event = json.dumps({"error": message}).encode()
    for said in (answered_error(400, b"data: " + event + b"\n\n"), stream_error(event)):
        assert (type(said), said.code) == (error, code)
        assert message in said.message


def test_a_wait_is_passed_on() -> None:
    error = answered_error(503, b"", "2")
    assert isinstance(error, EngineBusy)
    assert error.retry_after_ms == 2000


@pytest.mark.parametrize("status", [*range(201, 208), *range(300, 600)])
def test_no_status_is_without_a_meaning(status: int) -> None:
    """LO-WRK-162."""
    assert isinstance(answered_error(status, b""), EngineError)


@pytest.mark.parametrize("body", [b"", b"{}", b'"oh"', b"\xff", b"data: ", b"[" * 100_000])
def test_an_error_of_no_shape_is_still_an_error(body: bytes) -> None:
    """LO-WRK-162."""
    assert isinstance(answered_error(500, body), EngineFailed)
    assert isinstance(stream_error(body), EngineFailed)
