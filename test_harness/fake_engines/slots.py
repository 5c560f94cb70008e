"""The slots of a stand-in engine, and the words that each one still holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Slot:
    """One place to generate; `words` is what its cache holds, a prompt and what followed."""

    number: int
    busy: bool = False
    words: list[str] = field(default_factory=list)

    def common(self, words: Sequence[str]) -> int:
        """How many words at the beginning of `words` the cache holds."""
        for index, (held, wanted) in enumerate(zip(self.words, words, strict=False)):
            if held != wanted:
                return index
        return min(len(self.words), len(words))


class Slots:
    """Who is served where; requests wait in the order they came."""

    def __init__(self, count: int) -> None:
        self.all = [Slot(number) for number in range(count)]
        self._waiters: list[asyncio.Event] = []

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiters)

    @asynccontextmanager
    async def taken(self, wanted: int | None, words: Sequence[str]) -> AsyncIterator[Slot]:
        """A slot, once there is one: the wanted one, else the free one that knows most."""
        slot = await self._take(wanted, words)
        try:
            yield slot
        finally:
            slot.busy = False
            for freed in self._waiters:
                freed.set()

    async def _take(self, wanted: int | None, words: Sequence[str]) -> Slot:
        freed = asyncio.Event()
        self._waiters.append(freed)
        try:
            while (slot := self._free(wanted, words)) is None:
                await freed.wait()
                freed.clear()
        finally:
            self._waiters.remove(freed)
        slot.busy = True
        return slot

    def _free(self, wanted: int | None, words: Sequence[str]) -> Slot | None:
        """As llama.cpp: a wish for a slot that does not exist is ignored without a word."""
        free = [slot for slot in self.all if not slot.busy]
        if wanted is not None and 0 <= wanted < len(self.all):
            free = [slot for slot in free if slot.number == wanted]
        return max(free, key=lambda slot: slot.common(words), default=None)
