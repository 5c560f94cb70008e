"""What an Xid error of the NVIDIA driver asks for.

Source: NVIDIA, "Xid Errors", the catalogue and its column of immediate actions
(https://docs.nvidia.com/deploy/xid-errors/).  Where the catalogue names a workflow
in place of an action, the first step that a program can take stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from contracts.metrics import LABEL_VALUES
from contracts.pools import FailureReason


class XidAction(StrEnum):
    """What is done about the replicas on the card."""

    IGNORE = "ignore"
    """Nothing; a replica that was hit ends or falls silent by itself."""
    RESTART_REPLICA = "restart_replica"
    """The application is at fault or was hit: end it and start it again."""
    LOSE_DEVICE = "lose_device"
    """Nothing is started on the card until it was reset."""


@dataclass(frozen=True, slots=True)
class XidVerdict:
    """The reason of a failure, what is done, and what a person does."""

    reason: FailureReason
    action: XidAction
    remedy: str


_RESET = "reset the card with `nvidia-smi --gpu-reset`, or reboot"

_TABLE: Mapping[int, XidVerdict] = MappingProxyType(
    {
        13: XidVerdict(
            FailureReason.XID_13,
            XidAction.RESTART_REPLICA,
            "the engine made a fault on the GPU; if it comes back, update engine and driver",
        ),
        31: XidVerdict(
            FailureReason.XID_31,
            XidAction.RESTART_REPLICA,
            "the engine read GPU memory that is not its own; if it comes back, update the engine",
        ),
        43: XidVerdict(
            FailureReason.XID_43,
            XidAction.RESTART_REPLICA,
            "the driver stopped the engine's work after a fault; if it comes back, update both",
        ),
        45: XidVerdict(
            FailureReason.XID_45,
            XidAction.RESTART_REPLICA,
            "the driver took the engine's work away; the Xid before it in `dmesg` is the cause",
        ),
        48: XidVerdict(
            FailureReason.XID_48,
            XidAction.LOSE_DEVICE,
            f"an error in GPU memory could not be corrected; {_RESET}",
        ),
        63: XidVerdict(
            FailureReason.XID_63,
            XidAction.IGNORE,
            "bad GPU memory was set aside; reset the card when it is idle",
        ),
        64: XidVerdict(
            FailureReason.XID_64,
            XidAction.LOSE_DEVICE,
            f"bad GPU memory could not be set aside; {_RESET}, and have the card replaced"
            " if it comes back",
        ),
        74: XidVerdict(
            FailureReason.XID_74,
            XidAction.RESTART_REPLICA,
            "the NVLink failed; check the bridge, and reset the cards if it comes back",
        ),
        79: XidVerdict(
            FailureReason.GPU_LOST,
            XidAction.LOSE_DEVICE,
            "the card fell off the bus; reboot, then check its power, seat and temperature",
        ),
        94: XidVerdict(
            FailureReason.XID_94,
            XidAction.RESTART_REPLICA,
            "an error in GPU memory could not be corrected and hit this engine alone;"
            " reset the card when it is idle",
        ),
        95: XidVerdict(
            FailureReason.XID_95,
            XidAction.LOSE_DEVICE,
            f"an error in GPU memory could not be corrected nor contained; {_RESET}",
        ),
        119: XidVerdict(
            FailureReason.GPU_LOST,
            XidAction.LOSE_DEVICE,
            f"the card's system processor does not answer; {_RESET}",
        ),
        120: XidVerdict(
            FailureReason.GPU_LOST,
            XidAction.LOSE_DEVICE,
            f"the card's system processor failed; {_RESET}",
        ),
    }
)
_OTHER = XidVerdict(
    FailureReason.XID_OTHER,
    XidAction.IGNORE,
    "see `dmesg` and NVIDIA's catalogue of Xid errors",
)


def xid_verdict(xid: int) -> XidVerdict:
    """What the error `xid` asks for; one that is not in the table reads as XID_OTHER."""
    return _TABLE.get(xid, _OTHER)


def xid_label(xid: int) -> str:
    """The value of the metric label `xid`: the number, or `other`."""
    return str(xid) if str(xid) in LABEL_VALUES["xid"] else "other"
