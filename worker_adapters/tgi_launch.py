"""How Text Generation Inference is started, and what its end means."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.pools import FailureReason
from worker_adapters.base import EngineLauncher, LaunchPlan, LaunchSpec
from worker_adapters.launching import argument_names, cards, reason_of

API_KEY_VARIABLE = "API_KEY"
SPARE_REQUESTS = 1
"""Taken beyond the slots: TGI refuses what is one too many, and a full engine must still
be able to prove by a token that it works."""
SHARD_ARGUMENTS = frozenset({"--num-shard", "--sharded"})


class TgiLauncher(EngineLauncher):
    """`text-generation-launcher`, from a package or as the entry point of its image."""

    def plan(self, spec: LaunchSpec) -> LaunchPlan:
        """argv and environment; raises ValueError without a model, or for other workloads.

        Every option of the launcher has a variable of its name, so that a stray `PORT`
        or `HOSTNAME` would count: all that matters here is given as an argument.
        """
        if spec.model_path is None:
            raise ValueError("TGI needs a model directory")
        if spec.workload != "generation":
            raise ValueError(f"TGI generates text only, no {spec.workload}")
        argv: tuple[str, ...] = (
            spec.binary or "text-generation-launcher",
            "--model-id",
            str(spec.model_path),
        )
        argv += ("--hostname", spec.host, "--port", str(spec.port))
        argv += ("--max-total-tokens", str(spec.ctx), "--max-input-tokens", str(spec.ctx - 1))
        argv += ("--max-concurrent-requests", str(spec.slots + SPARE_REQUESTS))
        # Two replicas on one machine would share the socket of their shards.
        argv += ("--shard-uds-path", f"/tmp/tgi-{spec.port}")  # noqa: S108 - the port is ours
        argv += ("--usage-stats", "off")
        if len(spec.device_uuids) > 1 and not SHARD_ARGUMENTS & argument_names(spec.engine_args):
            argv += ("--num-shard", str(len(spec.device_uuids)))
        env = {
            API_KEY_VARIABLE: spec.api_key,
            **cards(spec),
            "HF_HUB_OFFLINE": "1",
        }
        return LaunchPlan((*argv, *spec.engine_args), env)

    def exit_reason(self, exit_code: int | None, log_tail: Sequence[str]) -> FailureReason:
        """The launcher exits with 1 for nearly everything, so its last lines must tell."""
        return reason_of(_TRACES, exit_code, log_tail)


_TRACES = (
    ("AddrInUse", FailureReason.PORT_TAKEN),
    ("ArgumentValidation", FailureReason.BAD_ARGUMENT),
    ("error: unexpected argument", FailureReason.BAD_ARGUMENT),
    ("error: invalid value", FailureReason.BAD_ARGUMENT),
    ("text-generation-server not found in PATH", FailureReason.TOOL_MISSING),
    ("DownloadError", FailureReason.MODEL_MISSING),
    ("No local weights found", FailureReason.MODEL_MISSING),
    ("is not a local folder and is not a valid model identifier", FailureReason.MODEL_MISSING),
)
