"""What every launcher needs: cards by their environment, the names of arguments, why it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from contracts.pools import FailureReason
from worker_adapters.base import LaunchSpec

Traces = Iterable[tuple[str, FailureReason]]
"""Words of an engine's log, and what they mean; the first that is found decides."""


def cards(spec: LaunchSpec) -> dict[str, str]:
    """The variables that show an engine its cards: by UUID, never by a number that may shift."""
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(spec.device_uuids),
    }


def argument_names(arguments: Sequence[str]) -> set[str]:
    """The names among arguments, with their values beside them or behind a `=`."""
    return {argument.partition("=")[0] for argument in arguments}


def reason_of(traces: Traces, exit_code: int | None, log_tail: Sequence[str]) -> FailureReason:
    """Why an engine ended whose exit code tells little: by its last lines.

    A signal is a crash whatever it said before.
    """
    if exit_code is not None and exit_code < 0:
        return FailureReason.CRASH
    log = "\n".join(log_tail)
    return next((reason for trace, reason in traces if trace in log), FailureReason.EXITED)
