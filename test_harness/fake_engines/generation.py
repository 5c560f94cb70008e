"""One completion of a stand-in engine: what was asked, the prompt, the tokens, the end."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from test_harness.fake_engines.attempts_log import Attempt
from test_harness.fake_engines.dialect import Asked, Dialect, Told, payload
from test_harness.fake_engines.engine import Engine
from test_harness.fake_engines.event_writer import EventWriter
from test_harness.fake_engines.faults import ODD_WORDS, Faults
from test_harness.fake_engines.slots import Slot

EXIT_DIED = 3
POISON = "POISON"
FLOOD_TOKEN = " " + "x" * 9_999
FLOOD_TOKENS_PER_MB = 100
TOLD_TO = "a fault of this test: error"

_LENGTH = re.compile(r"len=(\d+)")


@dataclass(frozen=True)
class Ask:
    """One generation, as it was asked for and as its faults have it."""

    asked: Asked
    words: tuple[str, ...]
    """The prompt, a token a word."""
    length: int
    """Tokens after which the text ends by itself."""
    faults: Faults

    @classmethod
    def read(cls, asked: Asked, options: argparse.Namespace, faults: Faults) -> Ask:
        """A request; ValueError where its prompt asks for a fault that there is not."""
        words = tuple(asked.prompt.split())
        faults = faults.with_those_of(words)
        return cls(asked, words, _length(words, faults, options.tokens), faults)

    @property
    def progress(self) -> bool:
        """Whether it shall tell how far the prompt is."""
        return self.asked.progress and "no-progress" not in self.faults

    def end(self) -> tuple[int, str]:
        """How many tokens there will be, and why no more."""
        most = self.asked.most
        if most < 0 or self.length < most or "ignore-n-predict" in self.faults:
            return self.length, "eos"
        return most, "limit"


def _length(words: Sequence[str], faults: Faults, most: int) -> int:
    """By `flood-MB`, by the last `len=N` of the prompt, or the longest there is."""
    if "flood" in faults:
        return faults["flood"] * FLOOD_TOKENS_PER_MB
    asked = [int(found[1]) for word in words if (found := _LENGTH.fullmatch(word))]
    return min(asked[-1], most) if asked else most


class Generation:
    """One stream in one slot."""

    def __init__(
        self, dialect: Dialect, engine: Engine, ask: Ask, slot: Slot, attempt: Attempt
    ) -> None:
        self._dialect = dialect
        self._engine = engine
        self._options = engine.options
        self._ask = ask
        self._slot = slot
        self._attempt = attempt
        self._cached = self._processed = self._found_in_cache()
        self._prompt_ms = 0.0

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Answer; canceled when the client leaves, with what came so far left in the cache."""
        writer = EventWriter(request, self._ask.faults)
        await self._evaluate(writer)
        count, ending = self._ask.end()
        for index in range(count):
            if self._ask.faults:
                await self._misbehave(writer, index)
                if self._ask.faults.get("error") == index:
                    await self._say(writer, self._dialect.error_event(TOLD_TO))
                    return await writer.end()
            await self._token(writer, index)
        await self._finish(writer, ending)
        return await writer.end()

    def _found_in_cache(self) -> int:
        """Words that need no evaluation; at least the last one does."""
        if not self._ask.asked.cache_prompt:
            return 0
        return max(0, min(self._slot.common(self._ask.words), len(self._ask.words) - 1))

    async def _evaluate(self, writer: EventWriter) -> None:
        """Take the prompt up, batch by batch."""
        words, options, began = self._ask.words, self._options, time.monotonic()
        self._engine.prefilling(1)
        try:
            await self._progress(writer, self._cached, began)
            self._slot.words = list(words[: self._cached])
            for start in range(self._cached, len(words), options.progress_every):
                batch = words[start : start + options.progress_every]
                if options.prefill_ms_per_token:
                    await asyncio.sleep(options.prefill_ms_per_token * len(batch) / 1000)
                self._slot.words += batch
                await self._progress(writer, start + len(batch), began)
        finally:
            self._engine.prefilling(-1)

    async def _progress(self, writer: EventWriter, processed: int, began: float) -> None:
        self._processed = processed
        self._prompt_ms = (time.monotonic() - began) * 1000
        event = self._dialect.progress(self._told()) if self._ask.progress else None
        if event is not None:
            await writer.event(payload(event))

    def _told(self) -> Told:
        return Told(
            form=self._ask.asked.form,
            words_in=len(self._ask.words),
            cached=self._cached,
            processed=self._processed,
            sent=self._attempt.sent,
            slot=self._slot.number,
            prompt_ms=self._prompt_ms,
            bad_figures="bad-figures" in self._ask.faults,
        )

    async def _token(self, writer: EventWriter, index: int) -> None:
        text = self._text(index)
        if "flood" not in self._ask.faults:
            await asyncio.sleep(self._options.token_ms / 1000)
        self._engine.sent += 1
        if self._ask.faults.due("deaf-after", self._engine.sent):
            self._engine.deaf.set()
        await writer.event(payload(self._dialect.token(self._told(), text)))
        self._attempt.sent += 1
        self._slot.words += text.split()

    def _text(self, index: int) -> str:
        if "flood" in self._ask.faults:
            return FLOOD_TOKEN
        if "split-utf8" in self._ask.faults:
            return ODD_WORDS[index % len(ODD_WORDS)]
        return f" w{index}"

    async def _misbehave(self, writer: EventWriter, index: int) -> None:
        """Whatever is due before the token `index`."""
        faults, sent = self._ask.faults, self._engine.sent
        if faults.due("die-after", sent):
            os._exit(EXIT_DIED)
        if faults.due("crash-after", sent):
            os.kill(os.getpid(), signal.SIGSEGV)
        if faults.due("hang-after", index) or ("half-alive" in faults and sent):
            await asyncio.Event().wait()
        if faults.get("bad-json") == index:
            await writer.raw(b'data: {"content": nothing}\n\n')
        if faults.get("foreign-data") == index:
            await writer.raw(b'event: execute\nid: 9\ndata: {"code": "alert(1)"}\n\n')
        if faults.due("endless-line", index):
            await writer.endless_line()
        if faults.due("cut-chunk", index):
            await writer.cut()

    async def _finish(self, writer: EventWriter, ending: str) -> None:
        faults = self._ask.faults
        final = self._dialect.final(self._told(), ending)
        for _ in range(0 if "no-final" in faults else 2 if "two-finals" in faults else 1):
            await self._say(writer, final)

    async def _say(self, writer: EventWriter, payloads: Sequence[bytes]) -> None:
        for said in payloads:
            await writer.event(said)
