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
from pool_managerd.domain.xid import XidAction, XidVerdict

MESSAGE_CHARACTERS_MAX = 2048

_VRAM_OOM = re.compile(
    r"CUDA(_ERROR| error)?:? ?_?out.of.memory|cudaMalloc failed: out of memory"
    r"|allocate CUDA\d* buffer|ErrorOutOfDeviceMemory|(CUDA|HIP) out of memory",
    re.IGNORECASE,
)
_GPU_LOST = re.compile(
    r"GPU is lost|fallen off the bus|no CUDA-capable device|driver/library version mismatch"
    r"|driver version is insufficient|CUDA_ERROR_NO_DEVICE|CUDA.*(busy or unavailable)",
    re.IGNORECASE,
)
_HOST_OOM = re.compile(
    r"out of memory|cannot allocate memory|bad_alloc|unable to allocate|failed to allocate",
    re.IGNORECASE,
)
_LAST_WORDS = (
    (_VRAM_OOM, FailureReason.VRAM_OOM),
    (_GPU_LOST, FailureReason.GPU_LOST),
    (_HOST_OOM, FailureReason.HOST_OOM),
)
"""What a line says whatever the engine: of CUDA and of the C++ library, in this order."""
UNEXPLAINED = frozenset({FailureReason.CRASH, FailureReason.EXITED})
KILLED = frozenset({-signal.SIGKILL, 128 + signal.SIGKILL})
_REMEDIES = {
    FailureReason.BAD_ARGUMENT: "it refused its arguments: check `engine_args` and `provisioning`",
    FailureReason.GPU_LOST: "it lost its GPU or the driver: look at `nvidia-smi` and the kernel's"
    " log, and reset the card or reboot",
    FailureReason.HOST_OOM: "the machine ran out of memory: lower `ctx` or `slots`, take a smaller"
    " model, or free memory",
    FailureReason.VRAM_OOM: "its GPU ran out of memory: lower `ctx` or `slots`, choose a smaller"
    " model, or free the card; it is not started again at this size",
    FailureReason.MODEL_INVALID: "it cannot load the model: the file is damaged or of a kind it"
    " does not know; replace it",
    FailureReason.MODEL_MISSING: "it did not find the model file; check `model.ref`",
    FailureReason.PORT_TAKEN: "its port was taken meanwhile; another one is tried",
    FailureReason.TOOL_MISSING: "a program or library it needs is missing; install it",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure of a replica; what is said of it is held to what a snapshot can show."""

    reason: FailureReason
    message: str
    log_tail: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """An engine may be quoted in it, and a path may be no UTF-8."""
        shown = self.message[:MESSAGE_CHARACTERS_MAX].encode(errors="backslashreplace").decode()
        object.__setattr__(self, "message", shown[:MESSAGE_CHARACTERS_MAX])


class LaunchRefused(Exception):
    """A replica cannot be launched as configured."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended; a negative code is the signal that ended it, None is unknown."""

    exit_code: int | None
    oom_killed: bool = False
    """Whether the kernel killed something for want of memory while it ran."""
    xid: XidVerdict | None = None
    """A new error of the driver on one of its cards while it ran."""


def exit_failure(
    reason: FailureReason,
    ending: Ending,
    program: str,
    log_tail: Sequence[str],
    *,
    model_there: bool,
) -> Failure:
    """The failure of a process that ended.

    Args:
        reason: what its adapter makes of its exit code and its last lines.

    An engine says the same of a model that is missing, damaged, or too large for
    the memory that is free: what its lines tell of memory goes first, and what the
    driver and the kernel tell before everything.
    """
    reason = _cause(reason, ending, log_tail)
    if reason is FailureReason.MODEL_MISSING and model_there:
        reason = FailureReason.MODEL_INVALID
    remedy = _REMEDIES.get(reason)
    if ending.xid is not None and reason is ending.xid.reason:
        remedy = ending.xid.remedy
    message = f"{program} {_ended(ending.exit_code)}"
    if remedy is not None:
        message += f": {remedy}"
    elif log_tail:
        message += f"; its last line: {log_tail[-1]}"
    else:
        message += " without a word"
    return Failure(reason, message, tuple(log_tail))


def _cause(reason: FailureReason, ending: Ending, log_tail: Sequence[str]) -> FailureReason:
    """The best witness goes first.

    The driver reports Xid 45 of every process that is killed while it uses a card, also
    by the kernel for memory: it is the cause only where nobody tells another one.
    """
    xid = ending.xid if ending.xid and ending.xid.action is not XidAction.IGNORE else None
    if xid is not None and xid.action is XidAction.LOSE_DEVICE:
        return xid.reason
    if ending.oom_killed and ending.exit_code in KILLED:
        return FailureReason.HOST_OOM
    if xid is not None and xid.reason is not FailureReason.XID_45:
        return xid.reason
    for words, told in _LAST_WORDS:
        if any(words.search(line) for line in log_tail):
            return told
    return xid.reason if xid is not None and reason in UNEXPLAINED else reason


def _ended(exit_code: int | None) -> str:
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
