"""What tells one stand-in engine from another: its routes, its words, its events.

A dialect says nothing of pace, slots and faults; those are the same for all and
lie in `generation` and `server`.
"""

from __future__ import annotations

import argparse
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from test_harness.fake_engines.engine import Engine
from test_harness.fake_engines.slots import Slots


@dataclass(frozen=True)
class Asked:
    """What a generation's body asks for, in the terms all dialects share."""

    prompt: str
    most: int
    """Tokens at most; negative for no bound."""
    slot: int | None = None
    cache_prompt: bool = True
    progress: bool = False
    """Whether it shall tell how far the prompt is."""
    form: str = ""
    """Which of its routes asked, where a dialect answers in several forms."""


@dataclass(frozen=True)
class Told:
    """The figures of one generation as of now."""

    form: str
    words_in: int
    cached: int
    processed: int
    sent: int
    """Tokens said."""
    slot: int
    prompt_ms: float
    bad_figures: bool
    """Whether it shall say that it evaluated -1 tokens."""

    @property
    def evaluated(self) -> int:
        """Tokens of the prompt, or what a liar says."""
        return -1 if self.bad_figures else self.words_in


class Serving(Protocol):
    """The server that a dialect gives its words to."""

    engine: Engine
    options: argparse.Namespace
    slots: Slots

    async def generate(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        """Answer a generation."""
        ...


Ending = str
"""`eos`: by itself; `limit`: at the bound it was given."""


class Dialect(ABC):
    """One engine's way to speak."""

    name: str
    """As pools name it."""
    key_variable: str | None
    """Where the engine finds its API key; None: it knows none."""
    open_paths: frozenset[str]
    """Routes that need no key."""
    generating_paths: frozenset[str]
    """Routes that generate; all others may stand still while a prompt is evaluated."""
    answers_while_loading: bool
    """Whether its port is open before its model is there."""

    @abstractmethod
    def routes(self, fake: Serving) -> Iterable[web.RouteDef]:
        """Everything it answers; generations by `fake.generate`."""

    @abstractmethod
    def progress(self, told: Told) -> dict[str, Any] | None:
        """How far the prompt is, as an event; None: it has none for that."""

    @abstractmethod
    def token(self, told: Told, text: str) -> dict[str, Any]:
        """The event of one token, the `told.sent`-th from 0."""

    @abstractmethod
    def final(self, told: Told, ending: Ending) -> Sequence[bytes]:
        """The payloads that end a stream; () where the body's end does."""

    @abstractmethod
    def error_event(self, message: str) -> Sequence[bytes]:
        """The payloads of a failure within a stream that answered 200."""

    @abstractmethod
    def refusal(self, status: int, message: str) -> web.Response:
        """Any answer that is no success."""

    @abstractmethod
    def too_long(self, words: int, ctx: int) -> web.Response:
        """Its refusal of a prompt that leaves no room in the context."""


def payload(data: dict[str, Any]) -> bytes:
    """An event's JSON; text stays as it is and is not escaped."""
    return json.dumps(data, ensure_ascii=False).encode()
