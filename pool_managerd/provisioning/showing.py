"""Launches as a plan shows them: equal for equal configurations, and without a secret."""

from __future__ import annotations

from contracts.plans import PlanStep
from worker_adapters.base import LaunchPlan

SHOWN_PORT = 65_535
SHOWN_KEY = "{api_key}"
"""Stand for what each launch chooses; the port is a number, since launchers take one."""


def launch_step(plan: LaunchPlan) -> PlanStep:
    """The last step of every plan."""
    return PlanStep(
        what="start the engine in a session of its own",
        argv=tuple(_shown(part) for part in plan.argv),
        env=tuple(f"{name}={_shown(value)}" for name, value in sorted(plan.env.items())),
    )


def _shown(part: str) -> str:
    return part.replace(str(SHOWN_PORT), "{port}")
