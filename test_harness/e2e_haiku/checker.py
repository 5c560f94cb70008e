"""Judge a haiku by recorded facts.  Pure: a cheat can be recorded too, and is found."""

from __future__ import annotations

import re
from collections.abc import Iterator

from test_harness.e2e_haiku.facts import Facts
from test_harness.task_client import assert_grammar, text_of

FAKES = ("test_harness", "fake_engine")
COUNTED = (
    ("tasks_finished_total", None),
    ("tasks_started_total", None),
    ("tokens_in_total", "tokens_in"),
    ("tokens_out_total", "tokens_out"),
)
"""Of each counter: the figure of `end` that it must have risen by; None: by one."""


def findings(facts: Facts, *, words: bool) -> list[str]:
    """What is wrong; nothing for an honest answer.

    `words`: whether the model can be held to the words it was asked for.
    """
    grammar = _grammar(facts)
    if grammar is not None:
        return [grammar]
    if facts.events[-1].name != "end":
        return [f"it ended in {facts.events[-1].data}"]
    found = [*_figures(facts), *_identity(facts), *_metrics(facts)]
    return [*found, *_words(facts)] if words else found


def _grammar(facts: Facts) -> str | None:
    try:
        assert_grammar(list(facts.events))
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        return f"the stream has no grammar: {error}"
    return None


def _figures(facts: Facts) -> Iterator[str]:
    """Stream, task and tokenizer tell one story."""
    end, usage = facts.events[-1].data, facts.task.get("usage") or {}
    pieces = [event for event in facts.events if event.name == "token"]
    text = text_of(list(facts.events))
    if not text.strip():
        yield "there is no text"
    if text != facts.task.get("text"):
        yield "the stream and the task tell different texts"
    if facts.task.get("state") != "succeeded":
        yield f"the task is {facts.task.get('state')}"
    for name in ("tokens_in", "tokens_out"):
        if usage.get(name) != end[name]:
            yield f"{name}: the stream tells {end[name]}, the task {usage.get(name)}"
    if end["tokens_in"] != facts.prompt_tokens:
        yield (
            f"tokens_in is {end['tokens_in']}, and the engine's tokenizer makes"
            f" {facts.prompt_tokens} of the prompt"
        )
    if end["tokens_out"] < len(pieces):
        yield f"{len(pieces)} pieces of text from {end['tokens_out']} tokens"


def _identity(facts: Facts) -> Iterator[str]:
    """A real engine, over the operator's file."""
    started = [event.data for event in facts.events if event.name == "started"][-1]
    if started["model_digest"] != facts.file_digest:
        yield f"it ran {started['model_digest']}, and the file is {facts.file_digest}"
    version = started["engine_version"]
    if not version or "fake" in version.lower():
        yield f"the engine's version is {version}"
    if not facts.processes:
        yield "no process of the engine was seen"
    for process in facts.processes:
        line = " ".join((process.executable, *process.argv))
        if any(fake in line for fake in FAKES):
            yield f"a stand-in engine answered: {line[:200]}"


def _metrics(facts: Facts) -> Iterator[str]:
    """Every token was counted by both daemons' own books."""
    end = facts.events[-1].data
    for name, figure in COUNTED:
        rose = facts.after.get(name, 0.0) - facts.before.get(name, 0.0)
        wanted = 1 if figure is None else end[figure]
        if rose != wanted:
            yield f"{name} rose by {rose:g}, not by {wanted}"
    if facts.leases_during < 1:
        yield "pool_managerd leased no slot of the replica while it spoke"
    if facts.leases_after > 0:
        yield "pool_managerd still leases the slot after the end"


def _words(facts: Facts) -> Iterator[str]:
    text = _bare(text_of(list(facts.events)))
    for what, word in (("minute", facts.minute), ("nonce", facts.nonce)):
        if _bare(word) not in text:
            yield f"the haiku lacks the {what} `{word}`"


def _bare(text: str) -> str:
    """Letters alone, each word set apart by one space at both ends."""
    return f" {' '.join(re.findall('[a-z]+', text.lower()))} "
