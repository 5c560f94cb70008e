"""How a llama.cpp server is started, and what its end means."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata

from contracts.pools import FailureReason
from worker_adapters.base import EngineLauncher, LaunchPlan, LaunchSpec
from worker_adapters.embedded import EmbeddedExit
from worker_adapters.launching import argument_names, cards, reason_of

API_KEY_VARIABLE = "LLAMA_API_KEY"
SPLIT_ARGUMENTS = frozenset({"--tensor-split", "-ts"})


class LlamaServerLauncher(EngineLauncher):
    """A `llama-server` binary, of any build: CPU, CUDA or another."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        """argv and environment; cards are named by UUID, never by a number that may shift."""
        argv = (spec.binary or "llama-server", *_address(spec), "-m", _model(spec))
        argv += ("--alias", spec.model_alias, "--parallel", str(spec.slots))
        # llama-server divides its context among the slots.
        argv += ("--ctx-size", str(spec.ctx * spec.slots))
        argv += ("-ngl", "999" if spec.device_uuids else "0")
        if spec.tensor_split and not SPLIT_ARGUMENTS & argument_names(spec.engine_args):
            shares = ",".join(f"{share:g}" for share in spec.tensor_split)
            argv += ("--tensor-split", shares)
        argv += _for_workload(spec)
        argv += ("--metrics", "--slots", "--no-webui")
        if spec.slot_dir is not None:
            argv += ("--slot-save-path", str(spec.slot_dir))
        env = {
            API_KEY_VARIABLE: spec.api_key,
            **cards(spec),
        }
        return LaunchPlan((*argv, *spec.engine_args), env)

    def exit_reason(self, exit_code: int | None, log_tail: Sequence[str]) -> FailureReason:
        """llama-server exits with 1 for everything, so its last lines must tell."""
        return reason_of(_TRACES, exit_code, log_tail)


_TRACES = (
    ("couldn't bind HTTP server socket", FailureReason.PORT_TAKEN),
    ("failed to load model", FailureReason.MODEL_MISSING),
    ("model loading error", FailureReason.MODEL_MISSING),
    ("invalid argument", FailureReason.BAD_ARGUMENT),
)


class EmbeddedLauncher(EngineLauncher):
    """llama.cpp from the xllamacpp wheel, on the CPU, in a child of this interpreter."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        """argv and environment; raises ValueError where cards or engine arguments are asked."""
        if spec.device_uuids or spec.engine_args:
            raise ValueError("the embedded engine takes neither devices nor engine_args")
        argv = (sys.executable, "-m", "worker_adapters.embedded", *_address(spec))
        argv += ("--model", _model(spec), "--alias", spec.model_alias)
        argv += ("--ctx", str(spec.ctx), "--slots", str(spec.slots))
        argv += ("--workload", spec.workload)
        if spec.slot_dir is not None:
            argv += ("--slot-dir", str(spec.slot_dir))
        return LaunchPlan(argv, {API_KEY_VARIABLE: spec.api_key})

    def exit_reason(
        self,
        exit_code: int | None,
        log_tail: Sequence[str],  # noqa: ARG002
    ) -> FailureReason:
        """By the documented exit codes of the child."""
        if exit_code is None:
            return FailureReason.EXITED
        if exit_code < 0:
            return FailureReason.CRASH
        return _EMBEDDED_EXITS.get(exit_code, FailureReason.EXITED)

    def engine_version(self) -> str | None:
        """The wheel's version: the server inside it calls itself `b0-unknown`."""
        try:
            return f"xllamacpp {metadata.version('xllamacpp')}"
        except metadata.PackageNotFoundError:
            return None


_EMBEDDED_EXITS: dict[int, FailureReason] = {
    EmbeddedExit.BAD_ARGUMENT: FailureReason.BAD_ARGUMENT,
    EmbeddedExit.BAD_MODEL: FailureReason.MODEL_MISSING,
    EmbeddedExit.WHEEL_MISSING: FailureReason.TOOL_MISSING,
    EmbeddedExit.PORT_TAKEN: FailureReason.PORT_TAKEN,
    EmbeddedExit.UNFIT_MODEL: FailureReason.WORKLOAD_MISSING,
}


def _for_workload(spec: LaunchSpec) -> tuple[str, ...]:
    """llama-server's words for it; the pooling of vectors is the model's own."""
    if spec.workload == "generation":
        return ()
    route = "--reranking" if spec.workload == "rerank" else "--embeddings"
    # A text is embedded in one piece, which the physical batch has to hold.
    return (route, "--batch-size", str(spec.ctx), "--ubatch-size", str(spec.ctx))


def _address(spec: LaunchSpec) -> tuple[str, ...]:
    return ("--host", spec.host, "--port", str(spec.port))


def _model(spec: LaunchSpec) -> str:
    if spec.model_path is None:
        raise ValueError("llama.cpp needs a model file")
    return str(spec.model_path)
