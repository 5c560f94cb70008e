"""What can be said of a process that serves OpenAI's API, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.pools import FailureReason
from worker_adapters.base import EngineLauncher, LaunchPlan, LaunchSpec


class AnyServerLauncher(EngineLauncher):
    """No program is known: a `command` of the configuration starts it, or somebody else."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:  # noqa: ARG002
        """Raises ValueError: there is nothing to start."""
        raise ValueError("engine `openai` has no program of its own: use `command` or `external`")

    def exit_reason(
        self,
        exit_code: int | None,
        log_tail: Sequence[str],  # noqa: ARG002
    ) -> FailureReason:
        """By its exit code alone."""
        crashed = exit_code is not None and exit_code < 0
        return FailureReason.CRASH if crashed else FailureReason.EXITED
