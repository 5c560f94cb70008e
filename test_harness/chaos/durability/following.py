"""A reader beside the scenario: what came of a stream, when, and how it ended."""

from __future__ import annotations

import http.client
import threading
import time
from itertools import pairwise

from test_harness.chaos.streams.wire import Wire
from test_harness.stack import Stack, wait_for
from test_harness.task_client import Event, assert_grammar, parse

SILENCE_S = 120.0
"""Longer than a daemon is made to stand still."""


class Following:
    """One stream, read in a thread to its end; a body that breaks off is an error."""

    def __init__(self, stack: Stack, task_id: str) -> None:
        self.task_id = task_id
        self.events: list[Event] = []
        self.times: list[float] = []
        """Monotonic seconds, of each event."""
        self._broken: str | None = None
        self._wire = Wire(stack, answer_s=SILENCE_S).follow(task_id)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_token(self) -> None:
        """Wait until a token has come."""
        wait_for(
            lambda: any(event.name == "token" for event in list(self.events)),
            f"a token of {self.task_id}",
        )

    def whole(self, deadline_s: float) -> list[Event]:
        """Everything that came, once the body has ended as it should."""
        self._thread.join(deadline_s)
        assert not self._thread.is_alive(), f"{self.task_id} has no end within {deadline_s:g} s"
        assert self._broken is None, f"{self.task_id}: {self._broken}"
        return self.events

    def whole_and_well(self, deadline_s: float) -> list[Event]:
        """The same of a task that succeeded."""
        events = self.whole(deadline_s)
        assert_grammar(events)
        assert events[-1].name == "end", events[-1]
        return events

    def between(self, first: float, last: float) -> int:
        """How many events came between two times."""
        return sum(first <= at <= last for at in self.times)

    @property
    def longest_gap_s(self) -> float:
        """The longest time in which nothing came, after the first event."""
        return max(later - earlier for earlier, later in pairwise(self.times))

    def _run(self) -> None:
        try:
            with self._wire:
                for frame in self._wire.frames():
                    self.times.append(time.monotonic())
                    self.events += parse(iter([frame + b"\n\n"]))
        except (OSError, http.client.HTTPException, AssertionError) as error:
            self._broken = repr(error)
