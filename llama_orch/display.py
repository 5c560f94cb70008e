"""How a running task looks: to a person, and to a script.

A `Display` is told what happens and draws it.  Tokens go to stdout, untouched
in a pipe; the place in the queue and the final figures go to stderr.
"""

from __future__ import annotations

from typing import Protocol

from rich.status import Status

from contracts.tasks import Admission
from llama_orch.event_stream import Event
from llama_orch.output import Output, duration, printable


class Display(Protocol):
    """What a task's follower reports."""

    def admitted(self, admission: Admission) -> None:
        """The task is on disk."""

    def waiting(self, position: int | None) -> None:
        """`position` tasks are ahead of it; None: not told."""

    def event(self, event: Event) -> None:
        """An event of its stream."""

    def remark(self, text: str) -> None:
        """Something a person may want to know."""

    def close(self) -> None:
        """Nothing more comes."""


class JsonDisplay:
    """Events as they are, one JSON object per line."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def admitted(self, admission: Admission) -> None:
        """The admission, in the shape of an event."""
        self._output.emit({"event": "admission", "data": admission.model_dump(mode="json")})

    def waiting(self, position: int | None) -> None:
        """Not an event of the stream: left out."""

    def event(self, event: Event) -> None:
        """`{"id", "event", "data"}`."""
        self._output.emit({"id": event.number, "event": event.name, "data": event.data})

    def remark(self, text: str) -> None:
        """Goes to stderr."""
        self._output.note(text)

    def close(self) -> None:
        """Nothing to undo."""


class TextDisplay:
    """Live tokens, a spinner while queued, figures at the end."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._spinner: Status | None = None
        self._said = ""
        self._line_open = False

    def admitted(self, admission: Admission) -> None:
        """Its id, and its place."""
        self._output.note(f"task {admission.task_id}", style="dim")
        self.waiting(admission.queue_position)

    def waiting(self, position: int | None) -> None:
        """A spinner on a terminal, a line per change elsewhere."""
        self._state(f"queued, {_ahead(position)}")

    def event(self, event: Event) -> None:
        """Draw one event."""
        if event.name == "token":
            self._token(str(event.data.get("t", "")))
        elif event.name == "started":
            place = f"{event.data.get('replica_id')}, {event.data.get('engine_version')}"
            self._state(f"started on {place}, reading the prompt")
        elif event.name == "metrics" and "queue_position" in event.data:
            self.waiting(event.data["queue_position"])
        elif event.name == "end":
            self.close()
            self._output.note(figures(event.data), style="dim")
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

    def _state(self, text: str) -> None:
        if text == self._said:
            return
        self._said = text
        if not self._output.notes.is_terminal:
            self._output.note(text)
        elif self._spinner is None:
            self._spinner = self._output.notes.status(printable(text))
            self._spinner.start()
        else:
            self._spinner.update(printable(text))


def figures(end: dict[str, object]) -> str:
    """The final line: tokens, rate, times; rate counts the gaps between tokens."""
    tokens, decode_ms = _number(end.get("tokens_out")), _number(end.get("decode_ms"))
    rate = f" · {(tokens - 1) * 1000 / decode_ms:.1f} tokens/s" if decode_ms and tokens > 1 else ""
    return (
        f"{tokens:.0f} tokens{rate}"
        f" · first token after {duration(_number(end.get('first_token_ms')))}"
        f" · queued {duration(_number(end.get('queue_ms')))}"
        f" · prompt {_number(end.get('tokens_in')):.0f} tokens"
        f" · {end.get('finish_reason')}"
    )


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0.0


def _ahead(position: int | None) -> str:
    if position is None:
        return "waiting for a slot"
    if position == 0:
        return "next in line"
    return f"{position} task{'s' if position > 1 else ''} ahead"
