"""What a person reads."""

from __future__ import annotations

import pytest

from llama_orch.display import figures
from llama_orch.output import duration, printable

END = {
    "finish_reason": "stop",
    "tokens_in": 12,
    "tokens_out": 101,
    "queue_ms": 1500,
    "first_token_ms": 80,
    "decode_ms": 2000,
}


def test_the_rate_counts_the_gaps_between_tokens() -> None:
    assert figures(dict(END)) == (
        "101 tokens · 50.0 tokens/s · first token after 80 ms · queued 1.5 s"
        " · prompt 12 tokens · stop"
    )


@pytest.mark.parametrize("missing", [{"tokens_out": 1}, {"decode_ms": None}, {"decode_ms": 0}])
def test_no_rate_is_made_up(missing: dict[str, object]) -> None:
    assert "tokens/s" not in figures(END | missing)


def test_a_strange_end_event_does_not_break_the_display() -> None:
    assert figures({"tokens_out": "many", "decode_ms": []}).startswith("0 tokens")


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(None, "–"), (0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (90_000, "1.5 min")],
)
def test_a_duration_is_said_in_its_unit(milliseconds: float | None, words: str) -> None:
    assert duration(milliseconds) == words


def test_only_control_characters_are_replaced() -> None:
    """LO-CMD-014."""
    text = "tab\t line\n é 漢 😀 \u2028 \u200d"
    assert printable(text) == text
    assert printable("\x1b]0;x\x07\r\x9b\x7f") == "\ufffd]0;x\ufffd\ufffd\ufffd\ufffd"
