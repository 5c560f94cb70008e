"""One strict task from its post to its end, as evidence."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from contracts.errors import RETRIABLE
from contracts.events import EndEvent, StartedEvent, TokenEvent
from contracts.ids import new_uuid
from contracts.model import Contract
from contracts.proofs import PIECES_MAX, Output, sequence_digest
from contracts.tasks import Admission, TaskRequest
from llama_orch.api import Api
from llama_orch.event_stream import Event, follow
from llama_orch.failures import Failed, Refused
from llama_orch.task_run import BACKPRESSURE

M = TypeVar("M", bound=Contract)

PAUSE_MS = 200
PAUSE_MS_MAX = 5_000


class TryAgain(Exception):
    """It did not run to its end, and may when it is tried again after `pause_s`."""

    def __init__(self, message: str, pause_ms: object) -> None:
        super().__init__(message)
        asked = pause_ms if isinstance(pause_ms, int) else PAUSE_MS
        self.pause_s = min(max(asked, 0), PAUSE_MS_MAX) / 1000


@dataclass
class Stream:
    """What one task's stream told."""

    task_id: str
    started: StartedEvent | None = None
    end: EndEvent | None = None
    pieces: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Another event; an `error` is raised as Failed or TryAgain."""
        if event.name == "started":
            self.started = _read(StartedEvent, event.data)
        elif event.name == "token":
            self.pieces.append(_read(TokenEvent, event.data).t)
            if len(self.pieces) > PIECES_MAX:
                raise Failed(f"task {self.task_id} gave more than {PIECES_MAX:,} pieces of text")
        elif event.name == "end":
            self.end = _read(EndEvent, event.data)
        elif event.name == "error":
            code = str(event.data.get("code"))
            if code in RETRIABLE:
                raise TryAgain(code, event.data.get("retry_after_ms"))
            raise Failed(f"task {self.task_id} ended: {code}: {event.data.get('message')}")

    def told(self) -> tuple[StartedEvent, Output]:
        """Where it ran, and what came."""
        if self.started is None or self.end is None:
            raise Failed(f"the stream of task {self.task_id} ended without `started` and `end`")
        output = Output(
            finish_reason=self.end.finish_reason,
            tokens_in=self.end.tokens_in,
            tokens_out=self.end.tokens_out,
            pieces=tuple(self.pieces),
            sha256=sequence_digest(self.pieces),
        )
        return self.started, output


@dataclass(frozen=True)
class Done:
    """A task that ran to its end."""

    task_id: str
    started: StartedEvent
    end: EndEvent
    output: Output


async def run_once(api: Api, request: TaskRequest, seed: int) -> Done:
    """Run `request` with `seed`.

    Raises:
        TryAgain: it was refused or broken off for a reason that passes.
        Failed: it ended badly, or not as it was asked.
        CommandFailure: as `Api`.
    """
    stream = Stream(new_uuid())
    asked = request.model_copy(update={"seed": seed, "task_id": stream.task_id})
    try:
        await api.post_for("/v1/tasks", asked, Admission)
    except Refused as refusal:
        if refusal.status not in BACKPRESSURE:
            raise
        raise TryAgain(refusal.message, refusal.retry_after_ms) from None
    async with aclosing(follow(api, stream.task_id)) as events:
        async for event in events:
            stream.take(event)
    started, output = stream.told()
    if started.seed != seed:
        raise Failed(f"seed {seed} was asked for, and {started.seed} used")
    assert stream.end is not None
    return Done(stream.task_id, started, stream.end, output)


def identity(started: StartedEvent) -> Mapping[str, Any]:
    """What a proof tells of where a task ran; Failed where the server does not tell it."""
    if started.engine_version is None or started.model_digest is None:
        raise Failed(f"{started.replica_id} does not tell its engine version or model digest")
    return {
        "replica_id": started.replica_id,
        "engine_version": started.engine_version,
        "model_digest": started.model_digest,
    }


def _read(model: type[M], data: dict[str, Any]) -> M:
    try:
        return model.model_validate(data, strict=False)
    except ValidationError as error:
        raise Failed(
            f"a `{model.__name__}` that this version cannot read: use one version on both sides"
        ) from error
