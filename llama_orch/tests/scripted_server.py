"""A server that misbehaves on purpose, and the environment a command is run in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from contracts.service.settings import child_environment

TOKEN = "the-token-of-the-test"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class ScriptedServer:
    """A real HTTP server whose answers are functions, by method and path.

    The faults it plays (half an answer, a foreign body, a cut stream) cannot be
    had from a healthy daemon.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                key = f"{self.command} {self.path.partition('?')[0]}"
                server.seen.append((key, {k.lower(): v for k, v in self.headers.items()}))
                length = int(self.headers.get("content-length", 0))
                self.body = self.rfile.read(length)
                server.answers.get(key, not_found)(self)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def calls(self, key: str) -> list[dict[str, str]]:
        """The headers of each call of `METHOD path`."""
        return [headers for seen, headers in self.seen if seen == key]


def answer(handler: BaseHTTPRequestHandler, status: int, value: Any, **headers: str) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    handler.send_response(status)
    for name, text in {"content-type": "application/json", **headers}.items():
        handler.send_header(name.replace("_", "-"), text)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def no_content(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(204)
    handler.end_headers()


def refusal(code: str, status: int, message: str = "no", **more: Any) -> Callable[..., None]:
    envelope = {"code": code, "message": message, "retriable": False, "correlation_id": "c"}
    return lambda handler: answer(handler, status, envelope | more)


def sse(handler: BaseHTTPRequestHandler, *chunks: bytes) -> None:
    """An event stream that ends by closing the connection."""
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(chunk)
    handler.close_connection = True


def event(number: int | None, name: str, **data: Any) -> bytes:
    head = b"" if number is None else b"id: %d\n" % number
    text = json.dumps(data, ensure_ascii=False)
    return head + f"event: {name}\ndata: {text}\n\n".encode()


def end(number: int, **more: Any) -> bytes:
    return event(
        number,
        "end",
        finish_reason="length",
        tokens_in=3,
        tokens_out=2,
        queue_ms=1,
        first_token_ms=2,
        decode_ms=10,
        **more,
    )


def task_view(task_id: str, **fields: Any) -> dict[str, Any]:
    """A task as a daemon shows it: queued and next, but for `fields`."""
    return {
        "task_id": task_id,
        "session_id": None,
        "state": "queued",
        "workload": "completion",
        "model": "m",
        "priority": "interactive",
        "pool_id": "chat",
        "queue_position": 0,
        "predicted_start_ms": None,
        "attempt": 0,
        "placement": None,
        "usage": None,
        "finish_reason": None,
        "text": None,
        "error": None,
        "seed": None,
        "correlation_id": "c",
        "metadata": {},
        "created_ms": 1,
        "started_ms": None,
        "finished_ms": None,
        "stream_url": f"/v1/tasks/{task_id}/stream",
        **fields,
    }


def not_found(handler: BaseHTTPRequestHandler) -> None:
    refusal("NOT_FOUND", 404, "no such thing")(handler)


def command_environment(home: Path) -> dict[str, str]:
    """What the command is run with: a home of its own, none of the caller's settings."""
    environment = child_environment({"HOME": str(home), "COLUMNS": "200"})
    environment.pop("XDG_CONFIG_HOME", None)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment
