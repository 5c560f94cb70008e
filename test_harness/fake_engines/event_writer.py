"""One event stream as bytes, well-formed or as its faults have it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from itertools import count, cycle

from aiohttp import web

from test_harness.fake_engines.faults import Faults

BOM = b"\xef\xbb\xbf"
LINE_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\r\n\r")
"""An event's two line ends, in every mixture; LF after CR would be one."""
ENDLESS = b"x" * 65536
MANGLING = frozenset({"bom", "foreign-events", "mixed-line-ends", "slice", "split-utf8"})

_LEAD_BYTE = re.compile(rb"(?<=[\xc0-\xff])")


class EventWriter:
    """Writes to one answer; its headers leave with the first event, as llama.cpp's do."""

    def __init__(self, request: web.Request, faults: Faults) -> None:
        self._request = request
        self._response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._faults = faults
        self._mangled = not MANGLING.isdisjoint(faults)
        self._line_ends = cycle(LINE_ENDS if "mixed-line-ends" in faults else LINE_ENDS[:1])
        self._ids = count()

    async def event(self, payload: bytes) -> None:
        """One event with this payload."""
        if self._mangled:
            await self._pieces(self._framed(payload))
        else:
            await self.raw(b"data: %s\n\n" % payload)

    async def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        if not self._response.prepared:
            await self._response.prepare(self._request)
            if "bom" in self._faults:
                await self._pieces(BOM)
        await self._response.write(data)

    async def endless_line(self) -> None:
        """A line that only the reader can end, by leaving."""
        await self.raw(b"data: ")
        while True:
            await self._response.write(ENDLESS)

    async def cut(self) -> None:
        """Break off within a chunk."""
        await self.raw(b": the last whole chunk\n")
        transport = self._request.transport
        assert transport is not None
        transport.write(b"ff\r\ndata: {")
        transport.close()
        # Until this handler is canceled: returning would end the body well.
        await asyncio.Event().wait()

    async def end(self) -> web.StreamResponse:
        """The end of the body."""
        await self._response.write_eof()
        return self._response

    def _framed(self, payload: bytes) -> bytes:
        ends = next(self._line_ends)
        line_end = ends[:1] if ends[:2] != b"\r\n" else b"\r\n"
        head = b""
        if "foreign-events" in self._faults:
            lines = (b"event: execute", b"id: %d" % next(self._ids), b"retry: 1")
            head = b"".join(line + line_end for line in lines)
        return head + b"data: " + payload + ends

    async def _pieces(self, data: bytes) -> None:
        for piece in self._cut(data):
            await self.raw(piece)
            # Each piece in a packet of its own.
            await asyncio.sleep(0)

    def _cut(self, data: bytes) -> Iterator[bytes]:
        pieces = _LEAD_BYTE.split(data) if "split-utf8" in self._faults else [data]
        size = self._faults.get("slice", len(data))
        for piece in pieces:
            for start in range(0, len(piece), size):
                yield piece[start : start + size]
