"""The end of a text, held back while it may be the beginning of a stop string.

Some engines end a text at a stop string and send it along.  Here it is no part of
the text, whatever the engine.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopTail:
    """One text, piece by piece; without stop strings it holds back nothing."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def add(self, piece: str) -> str:
        """What may be said now: all that can be no part of a stop string any more."""
        if not self._stops:
            return piece
        text = self._held + piece
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> tuple[str, bool]:
        """The rest of the text, and whether a stop string ended it."""
        held, self._held = self._held, ""
        for stop in self._stops:
            if held.endswith(stop):
                return held.removesuffix(stop), True
        return held, False


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`, at most all of it."""
    start = text.find(stop[0], max(0, len(text) - len(stop)))
    while start >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start = text.find(stop[0], start + 1)
    return 0
