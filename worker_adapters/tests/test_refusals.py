"""Every kind of refusal is an error of its own, and every status means something."""

from __future__ import annotations

import pytest

from contracts.errors import ErrorCode
from worker_adapters.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineProtocolError,
    EngineRefused,
)
from worker_adapters.refusals import STATUSES, Meaning, meaning_of, refusal_of

ERRORS: dict[Meaning, tuple[type[EngineError], ErrorCode]] = {
    Meaning.REFUSED: (EngineRefused, ErrorCode.INVALID_PARAMS),
    Meaning.TOO_LONG: (EngineRefused, ErrorCode.CONTEXT_EXCEEDED),
    Meaning.BUSY: (EngineBusy, ErrorCode.POOL_UNREADY),
    Meaning.FAILED: (EngineFailed, ErrorCode.WORKER_RESET),
    Meaning.FOREIGN: (EngineProtocolError, ErrorCode.UPSTREAM_PROTOCOL),
}


@pytest.mark.parametrize("meaning", list(Meaning))
def test_every_meaning_is_an_error_with_the_words_of_the_engine(meaning: Meaning) -> None:
    """LO-WRK-093."""
    error = refusal_of(meaning, "it said so", 418)
    assert (type(error), error.code) == ERRORS[meaning]
    assert "it said so" in error.message


def test_a_busy_engine_says_for_how_long() -> None:
    """LO-WRK-093."""
    error = refusal_of(Meaning.BUSY, "x", 429, "3")
    assert isinstance(error, EngineBusy)
    assert error.retry_after_ms == 3000


def test_only_what_the_table_names_differs_from_its_hundred() -> None:
    """LO-WRK-093."""
    for status in range(300, 600):
        usual = Meaning.FAILED if status >= 500 else Meaning.FOREIGN
        assert meaning_of(status) is STATUSES.get(status, usual)
