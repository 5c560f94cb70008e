"""How a running task looks: to a person, and to a script.

A `Display` is told what happens and draws it.  Tokens go to stdout, untouched
in a pipe; the place in the queue and the final figures go to stderr.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.status import Status

from contracts.tasks import Admission, TaskState
from llama_orch.event_stream import Event
from llama_orch.figures import figures
from llama_orch.output import Output, number, printable
from llama_orch.results import result_of
from llama_orch.waiting import Waiting


class Display(Protocol):
    """What a task's follower reports."""

    def admitted(self, admission: Admission) -> None:
        """The task is on disk."""

    def event(self, event: Event) -> None:
        """An event of its stream."""

    def remark(self, text: str) -> None:
        """Something a person may want to know."""

    def close(self) -> None:
        """Nothing more comes."""


class JsonDisplay:
    """Events as they are, one JSON object per line.

    `new_session` is the session that was made for the task; it is told before it.
    """

    def __init__(self, output: Output, new_session: str | None = None) -> None:
        self._output = output
        self._new_session = new_session

    def admitted(self, admission: Admission) -> None:
        """The admission, in the shape of an event."""
        if self._new_session is not None:
            self._output.emit({"event": "session", "data": {"session_id": self._new_session}})
        self._output.emit({"event": "admission", "data": admission.model_dump(mode="json")})

    def event(self, event: Event) -> None:
        """`{"id", "event", "data"}`."""
        self._output.emit({"id": event.number, "event": event.name, "data": event.data})

    def remark(self, text: str) -> None:
        """Goes to stderr."""
        self._output.note(text)

    def close(self) -> None:
        """Nothing to undo."""


class TextDisplay:
    """Live tokens, a spinner while queued, figures at the end.

    `new_session` is the session that was made for the task; `clock` gives
    seconds and never goes back; `inputs` are the texts of an embedding or a rerank.
    """

    def __init__(
        self,
        output: Output,
        new_session: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        inputs: Sequence[str] = (),
    ) -> None:
        self._output = output
        self._new_session = new_session
        self._clock = clock
        self._inputs = inputs
        self._spinner: Status | None = None
        self._said: Waiting | None = None
        self._cached = 0.0
        self._line_open = False

    def admitted(self, admission: Admission) -> None:
        """Its id, its session where that is new, and its place."""
        self._output.note(f"task {admission.task_id}", style="dim")
        if self._new_session is not None:
            self._output.note(f"session {self._new_session}", style="dim")
        if admission.state is TaskState.QUEUED:
            self._waiting(Waiting.told_by(admission.model_dump(), self._clock()))

    def event(self, event: Event) -> None:
        """Draw one event."""
        if event.name == "token":
            self._token(str(event.data.get("t", "")))
        elif event.name == "started":
            self._said = None
            engine = event.data.get("engine_version") or event.data.get("engine")
            place = f"{event.data.get('replica_id')}, {engine}"
            self._status(f"started on {place}, reading the prompt")
        elif event.name == "metrics" and "queue_position" in event.data:
            self._waiting(Waiting.told_by(event.data, self._clock()))
        elif event.name == "metrics":
            self._cached = number(event.data.get("kv_warmth")) or 0.0
        elif event.name == "end":
            self.close()
            shown = result_of(event.data.get("result"), self._inputs)
            if shown is not None:
                self._output.show(shown)
            self._output.note(figures(event.data, self._cached), style="dim")
        elif event.name == "error":
            self.close()

    def remark(self, text: str) -> None:
        """A line of its own."""
        self.close()
        self._output.note(text, style="yellow")

    def close(self) -> None:
        """Stop the spinner and end the line of tokens."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
        if self._line_open:
            self._output.write("\n")
            self._line_open = False

    def _token(self, text: str) -> None:
        if self._spinner is not None:
            self.close()
        self._output.write(text)
        if text:
            self._line_open = not text.endswith("\n")

    def _waiting(self, now: Waiting) -> None:
        """Every change on a terminal, elsewhere a line where it is news."""
        if self._output.notes.is_terminal or self._said is None or now.is_news_after(self._said):
            self._said = now
            self._status(now.words())

    def _status(self, text: str) -> None:
        """What goes on now: beside a spinner on a terminal, a line elsewhere."""
        if not self._output.notes.is_terminal:
            self._output.note(text)
        elif self._spinner is None:
            self._spinner = self._output.notes.status(printable(text))
            self._spinner.start()
        else:
            self._spinner.update(printable(text))
