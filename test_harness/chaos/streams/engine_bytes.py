"""What the stand-in engine sends, byte for byte, asked without orchestratord between."""

from __future__ import annotations

import json
import socket

from test_harness.bench.processes import Server
from test_harness.bench.taken_pool import KEY

ANSWER_S = 10.0


def chunks_of(engine: Server, prompt: str, tokens: int) -> list[bytes]:
    """The chunks of one completion's body, to its end or to where it breaks off."""
    body = json.dumps({"prompt": prompt, "n_predict": tokens, "stream": True}).encode()
    head = (
        "POST /completion HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", engine.port), ANSWER_S) as connection:
        connection.sendall(head.encode() + body)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    return list(_dechunked(received.partition(b"\r\n\r\n")[2]))


def _dechunked(body: bytes) -> list[bytes]:
    chunks = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        chunks.append(body[:length])
        body = body[length + 2 :]
    return chunks
