"""Server-sent events from bytes: framing only, bounded, nothing guessed.

The event-stream format ends a line at CR LF, LF or CR and at nothing else;
`str.splitlines` would also break at U+2028, U+0085 and others, which JSON text
may hold raw.  So lines are cut in bytes and the payload is never decoded here.
Source of the grammar: WHATWG HTML, "Server-sent events", section 9.2.
"""

from __future__ import annotations

import re

EVENT_BYTES = 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """One event, or one line, is longer than the bound."""


class EventParser:
    """Turns chunks of an event stream into the `data` of each complete event.

    Event names, ids and retry lines are dropped: what an engine calls its
    events is never trusted and never passed on.  An event without `data` is
    none, and what is incomplete when the stream ends is none either.

    Args:
        max_bytes: most bytes of one event's data, and of one line.
    """

    def __init__(self, max_bytes: int = EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()
        self._data: bytes | bytearray | None = None
        """Of the event under way.  Further lines go into one buffer: as a list, short ones
        would take many times the bytes that are counted."""
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads completed by `chunk`, in order, their lines joined by LF.

        Raises:
            EventTooLong: the event under way exceeds the bound.
        """
        if self._is_one_event(chunk):
            return [chunk[6:-2]]
        # A CR ends its line at once; should an LF open the next chunk, it belongs to that CR.
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        head, *lines = _LINE_END.split(chunk) if b"\r" in chunk else chunk.split(b"\n")
        self._line += head
        if not lines:
            self._check(len(self._line))
            return []
        self._after_cr = chunk.endswith(b"\r")
        first, rest = self._first_line(), lines.pop()
        self._line += rest
        events = self._collect([first, *lines])
        self._check(len(self._line))
        return events

    @property
    def is_within_event(self) -> bool:
        """Whether an event has begun and not ended; at the end of a body it was cut."""
        return bool(self._line) or self._data is not None

    def _is_one_event(self, chunk: bytes) -> bool:
        """Whether a chunk is one whole event of one line, as nearly all of a stream are."""
        return (
            chunk.startswith(b"data: ")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n")
            and b"\r" not in chunk
            and len(chunk) <= self._max_bytes
            and not (self._line or self._after_cr or self._at_start)
            and self._data is None
        )

    def _first_line(self) -> bytes:
        """The line that began in an earlier chunk, now complete."""
        line = bytes(self._line)
        self._line.clear()
        if self._at_start:
            self._at_start = False
            return line.removeprefix(_BOM)
        return line

    def _collect(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._add(line[6:] if line[5:6] == b" " else line[5:])
            elif line == b"data":
                self._add(b"")
            elif not line and self._data is not None:
                events.append(bytes(self._data))
                self._data = None
        return events

    def _add(self, data: bytes) -> None:
        if self._data is None:
            self._data = data
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += b"\n"
            self._data += data
        self._check(len(self._data))

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise EventTooLong
