"""How a Triton server is started, and what its end means."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.pools import FailureReason
from worker_adapters.base import EngineLauncher, LaunchPlan, LaunchSpec
from worker_adapters.launching import argument_names, cards, reason_of

METRICS_PORT_AFTER = 2
"""The metrics port less the HTTP port, as in Triton's own defaults, 8002 and 8000."""
PORT_MAX = 65535
MODEL_ARGUMENTS = frozenset({"--load-model", "--model-control-mode"})


class TritonLauncher(EngineLauncher):
    """The `tritonserver` program.  In a container nobody could prove that it is ours."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        """argv and environment; raises ValueError without a repository or for other workloads.

        The pool's model is the one of that name in the repository; a pool that
        chooses otherwise by its `engine_args` is left its choice.
        """
        if spec.model_path is None:
            raise ValueError("Triton needs a model repository: a directory")
        if spec.workload != "generation":
            raise ValueError(f"the generate extension makes text only, no {spec.workload}")
        program = spec.binary or "tritonserver"
        argv: tuple[str, ...] = (program, f"--model-repository={spec.model_path}")
        if not MODEL_ARGUMENTS & argument_names(spec.engine_args):
            argv += ("--model-control-mode=explicit", f"--load-model={spec.model_alias}")
        argv += (f"--http-address={spec.host}", f"--http-port={spec.port}", "--allow-grpc=false")
        argv += _metrics(spec)
        return LaunchPlan((*argv, *spec.engine_args), cards(spec))

    def exit_reason(self, exit_code: int | None, log_tail: Sequence[str]) -> FailureReason:
        """Triton exits with 1 for everything, so its last lines must tell."""
        # A port that is taken may also end it by SIGABRT, when its stubs are just starting.
        if any(IN_USE in line for line in log_tail):
            return FailureReason.PORT_TAKEN
        return reason_of(_TRACES, exit_code, log_tail)


IN_USE = "' already in use"
_TRACES = (
    ("unrecognized option", FailureReason.BAD_ARGUMENT),
    ("unable to find backend library", FailureReason.TOOL_MISSING),
    ("triton_python_backend_stub is not found", FailureReason.TOOL_MISSING),
    ("failed to stat file", FailureReason.MODEL_MISSING),
    ("model not found in any model repository", FailureReason.MODEL_MISSING),
    ("failed to load all models", FailureReason.MODEL_MISSING),
    ("load failed for model", FailureReason.MODEL_INVALID),
)


def _metrics(spec: LaunchSpec) -> tuple[str, ...]:
    port = spec.port + METRICS_PORT_AFTER
    if port > PORT_MAX:
        return ("--allow-metrics=false",)
    return (f"--metrics-address={spec.host}", f"--metrics-port={port}")
