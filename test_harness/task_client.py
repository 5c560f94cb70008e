"""A client of the task API for tests: posts, follows, and checks the grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2

from contracts.events import EVENT_MODELS, TERMINAL_EVENTS
from test_harness.stack import Stack

STREAM_DEADLINE_S = 120.0


@dataclass(frozen=True)
class Event:
    """One event as it was sent; `id` is None where the stream gave none."""

    id: int | None
    name: str
    data: dict[str, Any]


class TaskClient:
    """One agent at work against one stack."""

    def __init__(self, stack: Stack) -> None:
        self._http = httpx2.Client(
            base_url=stack.url,
            headers=stack.headers,
            timeout=httpx2.Timeout(10.0, read=STREAM_DEADLINE_S),
            trust_env=False,
        )
        self._threads = ThreadPoolExecutor(max_workers=64)

    def __enter__(self) -> TaskClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._threads.shutdown(wait=True)

    def post(self, **fields: Any) -> httpx2.Response:
        """POST a completion; the defaults suit the tiny models."""
        body = {"model": "tiny", "prompt": "The river", "max_tokens": 16, "seed": 1} | fields
        return self.raw_post({name: value for name, value in body.items() if value is not None})

    def raw_post(self, body: dict[str, Any]) -> httpx2.Response:
        """POST exactly this body."""
        return self._http.post("/v1/tasks", json=body)

    def accept(self, **fields: Any) -> str:
        """POST a task that must be accepted; returns its id."""
        answer = self.post(**fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def task(self, task_id: str) -> dict[str, Any]:
        """GET a task that must exist."""
        answer = self._http.get(f"/v1/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def cancel(self, task_id: str) -> int:
        """Cancel a task; returns the status."""
        return self._http.post(f"/v1/tasks/{task_id}/cancel").status_code

    def get(self, path: str, **options: Any) -> httpx2.Response:
        """GET anything."""
        return self._http.get(path, **options)

    def follow(self, task_id: str, after: int | None = None) -> Iterator[Event]:
        """Events as they come, to the end of the stream."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        with self._http.stream("GET", f"/v1/tasks/{task_id}/stream", headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            yield from parse(answer.iter_raw())

    def collect(self, task_id: str, after: int | None = None) -> list[Event]:
        """The whole stream."""
        return list(self.follow(task_id, after))

    def collecting(self, task_id: str) -> Future[list[Event]]:
        """The whole stream, read beside the test."""
        return self._threads.submit(self.collect, task_id)


def parse(chunks: Iterator[bytes]) -> Iterator[Event]:
    """Events of a byte stream; comments are skipped."""
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        while b"\n\n" in buffer:
            frame, buffer = buffer.split(b"\n\n", 1)
            fields = dict(
                line.split(b": ", 1) for line in frame.split(b"\n") if not line.startswith(b":")
            )
            if fields:
                number = int(fields[b"id"]) if b"id" in fields else None
                yield Event(number, fields[b"event"].decode(), json.loads(fields[b"data"]))


def text_of(events: list[Event]) -> str:
    """The joined text of the tokens."""
    return "".join(event.data["t"] for event in events if event.name == "token")


def assert_grammar(events: list[Event]) -> None:
    """metrics* started+ (token | metrics)* (end | error), or metrics* error; ids 1, 2, 3 …"""
    for event in events:
        EVENT_MODELS[event.name].model_validate_json(json.dumps(event.data))  # type: ignore[index]
    assert [e.id for e in events] == list(range(1, len(events) + 1)), "ids count from 1"
    names = [event.name for event in events if event.name != "metrics"]
    assert names[-1] in TERMINAL_EVENTS
    assert not TERMINAL_EVENTS & set(names[:-1])
    body = names[:-1]
    if not body:
        assert names == ["error"]
        return
    assert body[0] == "started"
    tokens = body[body.count("started") :]
    assert body == ["started"] * body.count("started") + tokens
    assert set(tokens) <= {"token"}
    indices = [event.data["i"] for event in events if event.name == "token"]
    assert indices == list(range(len(indices)))
