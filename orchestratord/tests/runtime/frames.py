"""Event streams read back the way a client reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from orchestratord.runtime.event_log import EventLog


class Frame(NamedTuple):
    id: int | None
    name: str
    data: Any


def parse(data: bytes) -> list[Frame]:
    """Every event in `data`; comments are no events."""
    return [_frame(block) for block in data.decode().split("\n\n") if block and block[0] != ":"]


def _frame(block: str) -> Frame:
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    number = fields.get("id")
    return Frame(
        None if number is None else int(number), fields["event"], json.loads(fields["data"])
    )


def text_of(frames: Iterable[Frame]) -> str:
    """The joined tokens."""
    return "".join(frame.data["t"] for frame in frames if frame.name == "token")


async def read(log: EventLog, after_id: int = 0) -> bytes:
    """Everything a reader is sent until its stream ends."""
    return b"".join([chunk async for chunk in log.follow(after_id)])
