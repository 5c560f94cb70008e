"""Why a replica is not serving, in words a person can act on.

The adapter of an engine knows how that engine says what is wrong and gives the
reason from the closed list; here the reason becomes a sentence with the remedy,
and the last lines the engine wrote go with it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.pools import FailureReason

MESSAGE_CHARACTERS_MAX = 2048

_OUT_OF_MEMORY = re.compile(
    r"out of memory|cannot allocate memory|bad_alloc|unable to allocate|failed to allocate",
    re.IGNORECASE,
)
_OUT_OF_MEMORY_REMEDY = (
    "it ran out of memory: lower `ctx` or `slots`, choose a smaller model, or free the device"
)
_REMEDIES = {
    FailureReason.BAD_ARGUMENT: "it refused its arguments: check `engine_args` and `provisioning`",
    FailureReason.MODEL_INVALID: "it cannot load the model: the file is damaged or of a kind it"
    " does not know; replace it",
    FailureReason.MODEL_MISSING: "it did not find the model file; check `model.ref`",
    FailureReason.PORT_TAKEN: "its port was taken meanwhile; another one is tried",
    FailureReason.TOOL_MISSING: "a program or library it needs is missing; install it",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure of a replica."""

    reason: FailureReason
    message: str
    log_tail: tuple[str, ...] = ()


class LaunchRefused(Exception):
    """A replica cannot be launched as configured."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message[:MESSAGE_CHARACTERS_MAX])


def exit_failure(
    reason: FailureReason,
    exit_code: int | None,
    program: str,
    log_tail: Sequence[str],
    *,
    model_there: bool,
) -> Failure:
    """The failure of a process that ended; a negative code is the signal that ended it.

    An engine says the same of a model that is missing, damaged, or too large for
    the memory that is free.  Only the last may heal by itself.
    """
    message = f"{program} {_ending(exit_code)}"
    remedy = _REMEDIES.get(reason)
    if reason is FailureReason.MODEL_MISSING and model_there:
        reason, remedy = FailureReason.MODEL_INVALID, _REMEDIES[FailureReason.MODEL_INVALID]
    if any(_OUT_OF_MEMORY.search(line) for line in log_tail):
        remedy = _OUT_OF_MEMORY_REMEDY
        if reason is FailureReason.MODEL_INVALID:
            reason = FailureReason.EXITED
    if remedy is not None:
        message += f": {remedy}"
    elif log_tail:
        message += f"; its last line: {log_tail[-1]}"
    else:
        message += " without a word"
    return Failure(reason, message[:MESSAGE_CHARACTERS_MAX], tuple(log_tail))


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "ended; an earlier pool_managerd had started it, so its exit code is lost"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    if -exit_code == signal.SIGKILL:
        return f"was killed by {name} (somebody's kill, or the kernel when memory runs out)"
    return f"crashed with {name}"
