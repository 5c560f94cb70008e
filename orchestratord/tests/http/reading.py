"""Answers read the way a client reads them."""

from __future__ import annotations

from contracts.tests.conftest import Answer
from orchestratord.tests.builders import TASK_ID
from orchestratord.tests.http.conftest import Site


async def done(it: Site, task_id: str = TASK_ID) -> None:
    await it.behind.frames(task_id)


def unchunked(body: bytes) -> bytes:
    """The body of a chunked answer."""
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return whole


async def stream_of(it: Site, last_seen: str | None = None, task_id: str = TASK_ID) -> Answer:
    headers = {} if last_seen is None else {"Last-Event-ID": last_seen}
    answer = await it.ask("GET", f"/v1/tasks/{task_id}/stream", headers=headers)
    if answer.status == 200:
        answer.body = unchunked(answer.body)
    return answer
