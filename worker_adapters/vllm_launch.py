"""How a vLLM server is started, and what its end means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contracts.pools import FailureReason
from worker_adapters.base import EngineLauncher, LaunchPlan, LaunchSpec
from worker_adapters.launching import cards, reason_of

API_KEY_VARIABLE = "VLLM_API_KEY"
SERVER_MODULE = "vllm.entrypoints.openai.api_server"
POLLED = "/health,/metrics,/version,/v1/models"
"""Asked every few seconds, and so kept out of the log whose last lines explain an end."""
SILENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""It neither fetches anything nor tells anybody of its use."""


class VllmLauncher(EngineLauncher):
    """A vLLM on this machine: its `vllm` script, or a Python that can import it."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        """argv and environment; cards are named by UUID, never by a number that may shift."""
        program, model = spec.binary or "vllm", _model(spec)
        if Path(program).name.startswith("python"):
            argv: tuple[str, ...] = (program, "-m", SERVER_MODULE, "--model", model)
        else:
            argv = (program, "serve", model)
        return _planned(argv, spec)

    def exit_reason(self, exit_code: int | None, log_tail: Sequence[str]) -> FailureReason:
        """By its last lines: it exits with 1 for nearly everything."""
        return reason_of(_TRACES, exit_code, log_tail)


class VllmImageLauncher(VllmLauncher):
    """The server inside vLLM's image, whose entry point stands before the arguments."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        """argv whose first word stands for the image's own entry point."""
        return _planned((spec.binary or "vllm", "--model", _model(spec)), spec)


_TRACES = (
    ("Address already in use", FailureReason.PORT_TAKEN),
    ("unrecognized arguments", FailureReason.BAD_ARGUMENT),
    ("error: argument ", FailureReason.BAD_ARGUMENT),
    ("greater than the derived max_model_len", FailureReason.BAD_ARGUMENT),
    ("Repo id must be in the form", FailureReason.MODEL_MISSING),
    ("Unrecognized model in", FailureReason.MODEL_INVALID),
    ("Error while deserializing header", FailureReason.MODEL_INVALID),
    ("Decrease --kv-cache-memory-bytes", FailureReason.HOST_OOM),
    ("No available memory for the cache blocks", FailureReason.VRAM_OOM),
    ("larger than the available KV cache memory", FailureReason.VRAM_OOM),
    ("Free memory on device", FailureReason.VRAM_OOM),
)
"""Of vLLM 0.32's own lines; the last three are its code's, not seen without a GPU."""


def _planned(server: tuple[str, ...], spec: LaunchSpec) -> LaunchPlan:
    argv = (*server, "--host", spec.host, "--port", str(spec.port))
    argv += ("--served-model-name", spec.model_alias)
    argv += ("--max-model-len", str(spec.ctx), "--max-num-seqs", str(spec.slots))
    argv += ("--enable-prompt-tokens-details", "--disable-access-log-for-endpoints", POLLED)
    if len(spec.device_uuids) > 1:
        argv += ("--tensor-parallel-size", str(len(spec.device_uuids)))
    if not spec.device_uuids:
        # On the CPU a seeded request whose prompt is cut in two ends the whole engine, so
        # one step has room for all that may come at once.
        argv += ("--max-num-batched-tokens", str(spec.ctx * spec.slots))
    if spec.workload != "generation":
        argv += ("--runner", "pooling")
    env = {
        API_KEY_VARIABLE: spec.api_key,
        **cards(spec),
        **SILENT,
    }
    return LaunchPlan((*argv, *spec.engine_args), env)


def _model(spec: LaunchSpec) -> str:
    if spec.model_path is None:
        raise ValueError("vLLM needs a model folder")
    return str(spec.model_path)
