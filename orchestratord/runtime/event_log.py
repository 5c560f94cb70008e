"""The event stream of one task, kept once for all its readers.

The engine appends, readers follow from any id.  A frame is encoded once, when
it is appended, and every reader is sent the same bytes; that is what lets a
slow or a second reader cost nothing on the token path.  The log is bounded in
bytes: past the bound the oldest frames go, and a reader that still needs them
is told that they are gone.

After the terminal event the log is sealed: `append` refuses, so that no token
can follow a cancel that was answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import anyio
import anyio.lowlevel
import msgspec

from contracts.events import TERMINAL_EVENTS, EventName
from contracts.model import Contract

_encode_text = msgspec.json.Encoder().encode
_BATCH_BYTES = 65_536


class LogSealed(Exception):
    """The log has its terminal event; nothing may follow."""


def encode_frame(name: EventName, data: bytes, event_id: int | None) -> bytes:
    """One SSE event; without an id where it is no part of the log (WHATWG HTML 9.2)."""
    head = b"" if event_id is None else b"id: %d\n" % event_id
    return b"".join((head, b"event: ", name.encode(), b"\ndata: ", data, b"\n\n"))


def _nobody_asks(_: bool) -> None:
    """What becomes of an audience nobody wants to know of."""


class EventLog:
    """An append-only log of encoded frames with ids from `first_id`.

    `reserved_id` is kept here for whoever writes to the disk: no event may have
    a higher id until a reservation beyond it is committed.

    Args:
        followed: called with True when the first reader comes, with False when
            the last one has gone.
    """

    def __init__(
        self,
        max_bytes: int,
        first_id: int = 1,
        followed: Callable[[bool], None] = _nobody_asks,
    ) -> None:
        self._frames: list[bytes] = []
        self._begin = first_id - 1
        self._first_id = first_id
        self.max_bytes = max_bytes
        self._dropped_through = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._farewell: bytes | None = None
        self._tokens = 0
        self._characters = 0
        self._followed = followed
        self._readers = 0
        self.bytes = 0
        self.sealed = False
        self.reserved_id = first_id - 1

    @property
    def last_id(self) -> int:
        """The id of the newest event; one less than the first when there is none."""
        return self._first_id + len(self._frames) - 1

    def keeps_all_after(self, event_id: int) -> bool:
        """Whether a reader that has seen `event_id` would miss nothing."""
        return event_id >= self._dropped_through

    def full_of(self, text: str) -> bool:
        """Whether the text of the whole log would pass its bound with this piece.

        Frames are dropped to stay within the bound; the text of the answer is
        kept whole beside them, so it has to end.
        """
        return self._characters + len(text) > self.max_bytes

    def append(self, name: EventName, event: Contract) -> int:
        """Add an event and wake the readers; returns its id.  Raises `LogSealed`."""
        return self.append_encoded(name, event.model_dump_json().encode())

    def append_encoded(self, name: EventName, data: bytes) -> int:
        """The same of an event that is JSON already."""
        event_id = self.last_id + 1
        self._push(encode_frame(name, data, event_id))
        if name in TERMINAL_EVENTS:
            self.sealed = True
        return event_id

    def append_token(self, text: str) -> None:
        """Add a `token` event: the hot path, so no contract object is made."""
        self._push(
            b'id: %d\nevent: token\ndata: {"t":%b,"i":%d}\n\n'
            % (self.last_id + 1, _encode_text(text), self._tokens)
        )
        self._tokens += 1
        self._characters += len(text)

    def dismiss(self, farewell: bytes) -> None:
        """Send every reader a last frame that is no part of the log, and end them."""
        self._farewell = farewell
        self._notify()

    async def follow(self, after_id: int) -> AsyncGenerator[bytes, None]:
        """Frames after `after_id`, several joined where a reader lags, to the terminal one.

        Use it under `contextlib.aclosing`: the log counts its readers.  Ends
        without a terminal frame when frames it needs were dropped; the reader
        resumes, and is then told that they are gone.
        """
        position = max(after_id, self._begin)
        self._readers += 1
        if self._readers == 1:
            self._followed(True)
        try:
            while True:
                while position < self.last_id:
                    if position < self._dropped_through:
                        return
                    batch, position = self._batch(position)
                    yield batch
                    # A replay waits for nothing but `send`, which may never
                    # suspend: without this the loop would serve no one else, and
                    # a client that left would not be noticed.
                    if position < self.last_id:
                        await anyio.lowlevel.checkpoint()
                if self.sealed:
                    return
                if self._farewell is not None:
                    yield self._farewell
                    return
                await self._next_change()
        finally:
            self._readers -= 1
            if self._readers == 0:
                self._followed(False)

    async def _next_change(self) -> None:
        # `asyncio.Event` does the same at twice the cost, once per token and reader.
        change = asyncio.get_running_loop().create_future()
        self._waiting.add(change)
        try:
            await change
        finally:
            self._waiting.discard(change)

    def _batch(self, after_id: int) -> tuple[bytes, int]:
        start = after_id + 1 - self._first_id
        if start == len(self._frames) - 1:
            return self._frames[start], after_id + 1
        frames, size = [], 0
        for index in range(start, len(self._frames)):
            frames.append(self._frames[index])
            size += len(frames[-1])
            if size >= _BATCH_BYTES:
                break
        return b"".join(frames), after_id + len(frames)

    def _push(self, frame: bytes) -> None:
        if self.sealed:
            raise LogSealed
        self._frames.append(frame)
        self.bytes += len(frame)
        while self.bytes > self.max_bytes:
            self._drop_oldest()
        self._notify()

    def _drop_oldest(self) -> None:
        """Drop an eighth at a time, so that a full log does not pay for each append."""
        count = max(1, len(self._frames) // 8)
        self.bytes -= sum(map(len, self._frames[:count]))
        del self._frames[:count]
        self._first_id += count
        self._dropped_through = self._first_id - 1

    def _notify(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)
