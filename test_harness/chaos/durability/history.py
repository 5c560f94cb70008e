"""What clients asked for and were told, and whether the daemon kept to it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import httpx2

from contracts.tasks import TERMINAL, TaskState
from test_harness.stack import Stack

LOOK_EVERY_S = 0.05
ABSENT = 404

View = Mapping[str, Any]
"""A task as GET shows it."""


class Told(Enum):
    """What became of an operation, as its client knows it."""

    OK = "answered 202"
    FAILED = "refused"
    UNKNOWN = "no answer"


@dataclass(frozen=True)
class Operation:
    """One task that a client wanted, and what its last try came to."""

    task_id: str
    tokens: int
    told: Told
    status: int | None = None
    tries: int = 1
    took_s: float = 0.0
    """To the answer, all tries together."""


@dataclass
class History:
    """Every operation of all clients; appended to from any thread."""

    operations: list[Operation] = field(default_factory=list)

    def add(self, operation: Operation) -> None:
        """Note one that is over."""
        self.operations.append(operation)

    def told(self, told: Told) -> list[Operation]:
        """Those that came to this."""
        return [operation for operation in self.operations if operation.told is told]

    @property
    def tries(self) -> int:
        """Requests that were sent, repetitions included."""
        return sum(operation.tries for operation in self.operations)


@dataclass(frozen=True)
class Kept:
    """What the daemon says of the operations now."""

    views: Mapping[str, View]
    """By task id, of those that are there."""
    lost: Collection[str]
    """Answered 202, and not there."""

    def states(self) -> Counter[str]:
        """How many ended how: `succeeded`, or the code of the error."""
        return Counter(
            view["state"] if view["error"] is None else view["error"]["code"]
            for view in self.views.values()
        )

    def wrong_texts(self, operations: Iterable[Operation]) -> list[str]:
        """Succeeded tasks whose text is not what the engine says, and others that exceed it."""
        return [
            operation.task_id
            for operation in operations
            if (view := self.views.get(operation.task_id)) is not None
            and not _is_right(view, operation.tokens)
        ]


def text_of(tokens: int) -> str:
    """What the stand-in engine says."""
    return "".join(f" w{number}" for number in range(tokens))


def kept(stack: Stack, operations: Iterable[Operation]) -> Kept:
    """Ask for every operation's task; one that got no answer may be there or not."""
    views: dict[str, View] = {}
    lost = []
    with stack.client() as client:
        for operation in operations:
            answer = client.get(f"/v1/tasks/{operation.task_id}")
            if answer.status_code == ABSENT:
                if operation.told is Told.OK:
                    lost.append(operation.task_id)
                continue
            assert answer.status_code == 200, answer.text
            views[operation.task_id] = answer.json()
    return Kept(views, lost)


def wait_ended(stack: Stack, task_ids: Iterable[str], deadline_s: float) -> None:
    """Wait until each of these is in a terminal state, or is not there."""
    deadline = time.monotonic() + deadline_s
    with stack.client() as client:
        for task_id in task_ids:
            while not _is_over(client, task_id):
                assert time.monotonic() < deadline, f"{task_id} has no end in {deadline_s:g} s"
                time.sleep(LOOK_EVERY_S)


def _is_over(client: httpx2.Client, task_id: str) -> bool:
    answer = client.get(f"/v1/tasks/{task_id}")
    return answer.status_code == ABSENT or answer.json()["state"] in TERMINAL


def _is_right(view: View, tokens: int) -> bool:
    whole, text = text_of(tokens), view["text"] or ""
    return text == whole if view["state"] == TaskState.SUCCEEDED else whole.startswith(text)
