"""How an attempt can end, as values the dispatcher acts on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from contracts.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The engine finished by itself, or was stopped at the limit it passed."""

    finish_reason: str
    tokens_out: int
    result: bytes | None = None
    """An answer that is no text, as JSON."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The task is over, and why."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Canceled:
    """Somebody asked for it; `by` is a metric label."""

    message: str = "canceled by the client"
    by: Literal["client", "session"] = "client"


@dataclass(frozen=True, slots=True)
class Rerun:
    """Nobody read a token: the task goes back in line.

    `reset` says that a replica died with the task in its hands, which counts
    towards the number of times a task may do that.
    """

    why: str
    reset: bool = False


Ending = Succeeded | Failed | Canceled | Rerun
