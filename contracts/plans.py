"""What bringing up a pool will do, shown before anything of it is done."""

from __future__ import annotations

from pydantic import Field

from contracts.ids import PoolId
from contracts.model import Contract

TOOL_MAX = 256


class PlanStep(Contract):
    """One step; equal configurations give equal steps."""

    what: str = Field(max_length=512, description="In words.")
    argv: tuple[str, ...] = Field(
        default=(),
        max_length=1024,
        description="What is run; {port} and {api_key} stand for what each launch chooses.",
    )
    env: tuple[str, ...] = Field(
        default=(), max_length=64, description="Variables set for it, as NAME or NAME=value."
    )


class MissingTool(Contract):
    """Something a plan needs that this machine has not: a program, a device, the model."""

    tool: str = Field(max_length=TOOL_MAX, description="What is missing.")
    remedy: str = Field(max_length=512, description="The command that installs it, or what to do.")


class ProvisioningPlan(Contract):
    """How one pool comes to run."""

    pool_id: PoolId = Field(description="The pool.")
    mode: str = Field(max_length=32, description="Its provisioning.mode.")
    steps: tuple[PlanStep, ...] = Field(max_length=256, description="In order.")
    missing: tuple[MissingTool, ...] = Field(max_length=32, description="To be installed first.")


class Plans(Contract):
    """The plans of a configuration."""

    items: tuple[ProvisioningPlan, ...] = Field(max_length=1000, description="One per pool.")
