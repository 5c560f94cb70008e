"""A reader of a stream down to its socket: one that stalls, resets, half-closes or talks on."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any, Self
from urllib.parse import urlsplit

from test_harness.stack import Stack

ANSWER_S = 30.0
PIECE_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: a close sends RST."""


class Wire:
    """One connection to orchestratord; close it, or use it in a `with`.

    Args:
        receive_buffer: what the kernel keeps for us unread, bytes; small, a
            reader that stalls is felt by the daemon soon.
        answer_s: how long nothing may come before that is an error.
    """

    def __init__(
        self, stack: Stack, receive_buffer: int | None = None, answer_s: float = ANSWER_S
    ) -> None:
        self._host = urlsplit(stack.url).netloc
        self._token = stack.token
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(answer_s)
        host, _, port = self._host.rpartition(":")
        self._socket.connect((host, int(port)))
        self._answer: HTTPResponse | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def follow(self, task_id: str, after: int | None = None) -> Self:
        """Ask for the stream of a task; nothing is read yet."""
        resume = {} if after is None else {"Last-Event-ID": str(after)}
        return self._ask("GET", f"/v1/tasks/{task_id}/stream", resume, b"")

    def post(self, **fields: Any) -> Self:
        """POST a task whose stream shall be the answer; nothing is read yet."""
        body = json.dumps({"model": "tiny", "prompt": "The river", "seed": 1} | fields).encode()
        headers = {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }
        return self._ask("POST", "/v1/tasks", headers, body)

    def talk_on(self, data: bytes) -> Self:
        """Send something after the request."""
        self._socket.sendall(data)
        return self

    def status(self) -> int:
        """The status of the answer, once its head is here."""
        return self.answer().status

    def answer(self) -> HTTPResponse:
        """The answer once its head is here, and nothing of its body read."""
        if self._answer is None:
            self._answer = HTTPResponse(self._socket)
            self._answer.begin()
        return self._answer

    def frames(self) -> Iterator[bytes]:
        """Events of a 200 as they were sent, without the empty line; comments are left out."""
        rest = b""
        assert self.status() == 200, self.answer().read()
        while piece := self.answer().read1(PIECE_BYTES):
            *frames, rest = (rest + piece).split(b"\n\n")
            yield from (frame for frame in frames if not frame.startswith(b":"))
        assert not rest, f"the stream ends within a frame: {rest!r}"

    def take(self, count: int) -> int:
        """Receive at least so many bytes, head included, unless the end comes first; their sum."""
        taken = 0
        while taken < count and (piece := self._socket.recv(PIECE_BYTES)):
            taken += len(piece)
        return taken

    def left(self) -> int:
        """Receive what is still on its way to a connection that was cut; its bytes."""
        taken = 0
        try:
            while piece := self._socket.recv(PIECE_BYTES):
                taken += len(piece)
        except ConnectionError:
            pass  # cut with data unsent
        return taken

    def half_close(self) -> Self:
        """Say that nothing more will be sent, and go on listening."""
        self._socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Leave without a word: RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """Leave politely: FIN."""
        if self._answer is not None:
            self._answer.close()  # it holds the socket too
        self._socket.close()

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Self:
        sent = {"Host": self._host, "Authorization": f"Bearer {self._token}"} | headers
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {sent[name]}" for name in sent)]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return self


def event_id(frame: bytes) -> int:
    """The id of a frame that has one."""
    first = frame.partition(b"\n")[0]
    assert first.startswith(b"id: "), frame
    return int(first[4:])
