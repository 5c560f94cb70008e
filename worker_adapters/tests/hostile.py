"""A server on a real port that sends exactly the bytes it is given."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


@dataclass
class Hostile:
    """Where it listens, and what it was sent."""

    base_url: str
    requests: list[bytes] = field(default_factory=list)


def chunk(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def events(*payloads: bytes) -> list[bytes]:
    """Each payload as an event in a chunk of its own, and the end of the body."""
    return [*(chunk(b"data: " + payload + b"\n\n") for payload in payloads), LAST_CHUNK]


def answer(status: int, body: bytes, *headers: bytes, kind: bytes = b"application/json") -> bytes:
    """A whole answer."""
    lines = [b"HTTP/1.1 %d Said" % status, b"Content-Type: " + kind, *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


@asynccontextmanager
async def hostile(
    writes: Sequence[bytes] | Mapping[bytes, bytes],
    end: Literal["close", "reset", "hang"] = "close",
) -> AsyncIterator[Hostile]:
    """Send `writes` to each request, each in a packet of its own, then close, reset or hang.

    A mapping holds the one write for each path.
    """
    server_state = Hostile("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await _request(reader)
            server_state.requests.append(request)
            path = request.split(b" ")[1]
            for write in [writes[path]] if isinstance(writes, Mapping) else writes:
                writer.write(write)
                await writer.drain()
                await asyncio.sleep(0)
            if end == "hang":
                await reader.read()
            if end == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        server_state.base_url = f"http://127.0.0.1:{port}"
        yield server_state


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)
