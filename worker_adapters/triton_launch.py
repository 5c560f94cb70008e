"""How a Triton server is started, and what its end means."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.pools import FailureReason
from worker_adapters.base import EngineLauncher, LaunchPlan, LaunchSpec

METRICS_PORT_AFTER = 2
"""The metrics port less the HTTP port, as in Triton's own defaults, 8002 and 8000."""
PORT_MAX = 65535
PROGRAM = "tritonserver"
MODEL_ARGUMENTS = frozenset({"--load-model", "--model-control-mode"})


class TritonLauncher(EngineLauncher):
    """`tritonserver`, as a program or as that of NVIDIA's image."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        """argv and environment; raises ValueError without a repository or for other workloads.

        The pool's model is the one of that name in the repository; a pool that
        chooses otherwise by its `engine_args` is left its choice.
        """
        return _planned((spec.binary or PROGRAM,), spec)

    def exit_reason(self, exit_code: int | None, log_tail: Sequence[str]) -> FailureReason:
        """Triton exits with 1 for everything, so its last lines must tell."""
        log = "\n".join(log_tail)
        # A port that is taken may also end it by SIGABRT, when its stubs are just starting.
        if IN_USE in log:
            return FailureReason.PORT_TAKEN
        if exit_code is not None and exit_code < 0:
            return FailureReason.CRASH
        for trace, reason in _TRACES:
            if trace in log:
                return reason
        return FailureReason.EXITED


class TritonImageLauncher(TritonLauncher):
    """The server inside NVIDIA's image, whose entry point runs what follows it."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        """argv whose first word stands for the image's own entry point."""
        return _planned((spec.binary or "entry-point", PROGRAM), spec)


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


def _planned(program: tuple[str, ...], spec: LaunchSpec) -> LaunchPlan:
    if spec.model_path is None:
        raise ValueError("Triton needs a model repository: a directory")
    if spec.workload != "generation":
        raise ValueError(f"the generate extension makes text only, no {spec.workload}")
    argv = (*program, f"--model-repository={spec.model_path}")
    if not MODEL_ARGUMENTS & _names(spec.engine_args):
        argv += ("--model-control-mode=explicit", f"--load-model={spec.model_alias}")
    argv += (f"--http-address={spec.host}", f"--http-port={spec.port}", "--allow-grpc=false")
    argv += _metrics(spec)
    env = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(spec.device_uuids),
    }
    return LaunchPlan((*argv, *spec.engine_args), env)


def _metrics(spec: LaunchSpec) -> tuple[str, ...]:
    port = spec.port + METRICS_PORT_AFTER
    if port > PORT_MAX:
        return ("--allow-metrics=false",)
    return (f"--metrics-address={spec.host}", f"--metrics-port={port}")


def _names(arguments: Sequence[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments}
