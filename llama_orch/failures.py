"""Every way a command can end badly, and the exit code a script sees.

CommandFailure
  |- Failed          1    it was tried and did not work
  |- UsageMistake    2    the command line asks for something impossible
  |- Unreachable     3    no daemon answers at the URL
  `- Refused         4    the server answered, and said no
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from contracts.errors import ErrorEnvelope


class ExitCode(IntEnum):
    """What the process returns; the table in the README is held to this."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


class CommandFailure(Exception):
    """One line for a person, and facts for a script."""

    exit_code = ExitCode.FAILED
    word = "FAILED"

    @property
    def message(self) -> str:
        """What happened and what to do about it."""
        return str(self)

    def facts(self) -> dict[str, Any]:
        """The `error` object printed under `--json`."""
        return {"exit_code": int(self.exit_code), "code": self.word, "message": self.message}


class Failed(CommandFailure):
    """It was tried and did not work."""


class UsageMistake(CommandFailure):
    """The command line asks for something impossible."""

    exit_code = ExitCode.USAGE
    word = "USAGE"


class Unreachable(CommandFailure):
    """No daemon answers at the URL."""

    exit_code = ExitCode.UNREACHABLE
    word = "UNREACHABLE"


class Refused(CommandFailure):
    """The server said no; `envelope` is None where a foreign server answered."""

    exit_code = ExitCode.REFUSED
    word = "REFUSED"

    def __init__(self, message: str, *, status: int, envelope: ErrorEnvelope | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.envelope = envelope

    @property
    def retry_after_ms(self) -> int | None:
        """When the server suggests to try again, ms; None: it does not."""
        return self.envelope.retry_after_ms if self.envelope else None

    def facts(self) -> dict[str, Any]:
        """The server's own envelope, and the exit code."""
        if self.envelope is None:
            return super().facts() | {"status": self.status}
        return {
            "exit_code": int(self.exit_code),
            "status": self.status,
            **self.envelope.model_dump(mode="json"),
            "message": self.message,
        }
