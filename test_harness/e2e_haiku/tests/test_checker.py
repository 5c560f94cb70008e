"""The checker against recorded facts: an honest haiku, and every cheat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from test_harness.e2e_haiku.checker import findings
from test_harness.e2e_haiku.facts import Facts, Process, minute_words
from test_harness.task_client import Event

DIGEST = f"sha256:{'a' * 64}"
TEXT = "Forty-two ripples,\nthe river whispers zobali;\nmorning answers it"


def events_of(text: str, **started: Any) -> tuple[Event, ...]:
    pieces = text.split(" ")
    told = {
        "queue_position": 0,
        "predicted_start_ms": None,
        "attempt": 1,
        "pool_id": "default",
        "replica_id": "default/0",
        "engine": "llamacpp",
        "engine_version": "xllamacpp 1",
        "model_digest": DIGEST,
        "seed": 1,
    } | started
    end = {"finish_reason": "stop", "tokens_in": 30, "tokens_out": len(pieces) + 1}
    end |= {"queue_ms": 0, "first_token_ms": 1, "decode_ms": 9}
    tokens = [
        Event(number + 2, "token", {"t": piece if not number else f" {piece}", "i": number})
        for number, piece in enumerate(pieces)
    ]
    return (Event(1, "started", told), *tokens, Event(len(tokens) + 2, "end", end))


def honest(text: str = TEXT, **started: Any) -> Facts:
    events = events_of(text, **started)
    end = events[-1].data
    counted = {"tasks_finished_total": 1.0, "tasks_started_total": 1.0}
    counted |= {name: float(end[name.removesuffix("_total")]) for name in TOKENS}
    return Facts(
        minute="forty-two",
        nonce="zobali",
        events=events,
        task={"state": "succeeded", "text": text, "usage": end},
        file_digest=DIGEST,
        before={"tasks_finished_total": 4.0},
        after=counted | {"tasks_finished_total": 5.0},
        leases_during=1.0,
        leases_after=0.0,
        prompt_tokens=30,
        processes=(Process("/usr/bin/python3", ("python3", "-m", "worker_adapters.embedded")),),
    )


TOKENS = ("tokens_in_total", "tokens_out_total")


def test_an_honest_haiku_passes() -> None:
    """LO-DET-020."""
    assert findings(honest(), words=True) == []


def test_a_canned_haiku_is_found() -> None:
    """LO-DET-023: by the word, by the minute, and not by parts of other words."""
    canned = findings(honest("An old silent pond, a frog jumps in"), words=True)
    assert canned == [
        "the haiku lacks the minute `forty-two`",
        "the haiku lacks the nonce `zobali`",
    ]
    assert findings(honest(TEXT.replace("zobali", "zobalist")), words=True) == [
        "the haiku lacks the nonce `zobali`"
    ]
    assert findings(honest("An old silent pond"), words=False) == []


FAKE = Process("/usr/bin/python3", ("-m", "test_harness.fake_engines.llamacpp"))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (honest(model_digest=f"sha256:{'b' * 64}"), "and the file is"),
        (honest(model_digest=None), "it ran None"),
        (honest(engine_version=None), "the engine's version is None"),
        (honest(engine_version="fake-1"), "the engine's version is fake-1"),
        (replace(honest(), processes=(FAKE,)), "a stand-in engine answered"),
        (replace(honest(), processes=()), "no process of the engine was seen"),
        (replace(honest(), after=honest().before), "tokens_out_total rose by 0, not by"),
        (replace(honest(), after={}), "tasks_finished_total rose by -4, not by 1"),
        (replace(honest(), leases_during=0.0), "leased no slot"),
        (replace(honest(), leases_after=1.0), "still leases the slot"),
        (replace(honest(), prompt_tokens=12), "the engine's tokenizer makes 12 of the prompt"),
        (replace(honest(), task=honest().task | {"text": "x"}), "tell different texts"),
        (replace(honest(), task=honest().task | {"state": "failed"}), "the task is failed"),
        (replace(honest(), task=honest().task | {"usage": None}), "the task None"),
        (replace(honest(), events=honest().events[:-1]), "the stream has no grammar"),
        (replace(honest(), events=honest().events[1:]), "the stream has no grammar"),
        (replace(honest(), events=()), "the stream has no grammar"),
        (honest(""), "there is no text"),
    ],
)
def test_a_cheat_is_found(facts: Facts, words: str) -> None:
    """LO-DET-021, LO-DET-022, LO-DET-023."""
    assert any(words in found for found in findings(facts, words=False))


@pytest.mark.parametrize(
    ("minute", "words"),
    [(0, "zero"), (13, "thirteen"), (20, "twenty"), (42, "forty-two"), (59, "fifty-nine")],
)
def test_a_minute_in_words(minute: int, words: str) -> None:
    assert minute_words(minute) == words


def test_no_two_minutes_share_their_words() -> None:
    assert len({minute_words(minute) for minute in range(60)}) == 60
