"""What real engines sent, byte for byte: kept in `transcripts/DIALECT/NAME.http`.

Each file is one whole HTTP/1.1 answer as it came from the socket, framing and all;
`recorded.json` beside them says which engine gave them and what it was asked.
`python -m test_harness.conformance.record DIALECT` makes them again.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "transcripts"
ANSWER_S = 60.0


@dataclass(frozen=True)
class Question:
    """One request, and the name its answer is kept under."""

    name: str
    path: str
    body: Mapping[str, Any] | str | None = None
    """JSON, or text that is none; None: a GET."""
    has_key: bool = field(default=True)


@dataclass(frozen=True)
class Exchange:
    """A question and the bytes that answered it."""

    question: Question
    answer: bytes


def ask(port: int, key: str, question: Question) -> Exchange:
    """The whole answer of a server on loopback, until it closes the connection."""
    body = question.body
    text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
    lines = [
        f"{'GET' if body is None else 'POST'} {question.path} HTTP/1.1",
        "Host: engine",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(text.encode())}",
        *([f"Authorization: Bearer {key}"] if question.has_key else []),
    ]
    with socket.create_connection(("127.0.0.1", port), ANSWER_S) as connection:
        connection.sendall("\r\n".join([*lines, "", text]).encode())
        with connection.makefile("rb") as answer:
            return Exchange(question, answer.read())


def write(dialect: str, engine: str, exchanges: Iterable[Exchange]) -> None:
    """Keep them in the place of those that were kept."""
    folder = FOLDER / dialect
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.http"):
        old.unlink()
    asked = {}
    for exchange in exchanges:
        question = asdict(exchange.question)
        asked[question.pop("name")] = question
        (folder / f"{exchange.question.name}.http").write_bytes(exchange.answer)
    told = json.dumps({"engine": engine, "asked": asked}, indent=1)
    (folder / "recorded.json").write_text(told + "\n")


def recorded(dialect: str) -> dict[str, bytes]:
    """Every kept answer by its name."""
    return {path.stem: path.read_bytes() for path in sorted((FOLDER / dialect).glob("*.http"))}
