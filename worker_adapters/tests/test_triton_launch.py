"""argv and environment of Triton, and the reading of its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contracts.pools import FailureReason
from worker_adapters.base import LaunchSpec
from worker_adapters.triton_launch import TritonImageLauncher, TritonLauncher

SPEC = LaunchSpec(
    model_path=Path("/models"),
    model_alias="tiny",
    host="127.0.0.1",
    port=9000,
    ctx=4096,
    slots=3,
    device_uuids=("GPU-a",),
    engine_args=("--backend-directory=/be",),
    api_key="sekret",
)


def test_it_loads_one_model_and_keeps_its_figures_to_loopback() -> None:
    """LO-WRK-001, LO-WRK-160: no gRPC, and the metrics two ports on."""
    plan = TritonLauncher().plan(SPEC)
    assert plan.argv == (
        *("tritonserver", "--model-repository=/models"),
        *("--model-control-mode=explicit", "--load-model=tiny"),
        *("--http-address=127.0.0.1", "--http-port=9000", "--allow-grpc=false"),
        *("--metrics-address=127.0.0.1", "--metrics-port=9002", "--backend-directory=/be"),
    )
    assert plan.env == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "GPU-a"}


def test_in_its_image_the_program_stands_behind_the_entry_point() -> None:
    """LO-WRK-160."""
    inside = TritonImageLauncher().plan(replace(SPEC, binary="server"))
    assert inside.argv[1:] == TritonLauncher().plan(SPEC).argv


@pytest.mark.parametrize("given", ["--load-model=ensemble", "--model-control-mode=none"])
def test_a_pool_may_choose_its_models_itself(given: str) -> None:
    argv = TritonLauncher().plan(replace(SPEC, engine_args=(given,))).argv
    assert [a for a in argv if "model-control" in a or "load-model" in a] == [given]


@pytest.mark.parametrize(
    ("port", "metrics"), [(65533, "--metrics-port=65535"), (65534, "--allow-metrics=false")]
)
def test_there_are_no_metrics_beyond_the_last_port(port: int, metrics: str) -> None:
    assert metrics in TritonLauncher().plan(replace(SPEC, port=port)).argv


@pytest.mark.parametrize("spec", [replace(SPEC, model_path=None), replace(SPEC, workload="rerank")])
def test_what_it_cannot_serve_is_no_plan(spec: LaunchSpec) -> None:
    with pytest.raises(ValueError, match=r"repository|generate"):
        TritonLauncher().plan(spec)


CREATING = "error: creating server: "
UNAVAILABLE = f"{CREATING}Invalid argument - load failed for model 'x': UNAVAILABLE state: "


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        (
            1,
            "failed to start HTTP service: Unavailable - Socket '127.0.0.1:1' already in use ",
            FailureReason.PORT_TAKEN,
        ),
        (
            -6,
            "failed to start Metrics service: Unavailable - Socket '127.0.0.1:1' already in use ",
            FailureReason.PORT_TAKEN,
        ),
        (1, "tritonserver: unrecognized option '--nope'", FailureReason.BAD_ARGUMENT),
        (1, f"{CREATING}Internal - failed to stat file /nowhere", FailureReason.MODEL_MISSING),
        (1, f"{CREATING}Internal - failed to load all models", FailureReason.MODEL_MISSING),
        (
            1,
            f"{UNAVAILABLE}Internal: RuntimeError: no weights",
            FailureReason.MODEL_INVALID,
        ),
        (
            1,
            f"{UNAVAILABLE}Invalid argument: unable to find backend library for backend 't'",
            FailureReason.TOOL_MISSING,
        ),
        (
            1,
            f"{UNAVAILABLE}Not found: triton_python_backend_stub is not found. Searched paths: /be",
            FailureReason.TOOL_MISSING,
        ),
        (-9, f"{CREATING}Internal - failed to load all models", FailureReason.CRASH),
        (1, "something else", FailureReason.EXITED),
        (None, "", FailureReason.EXITED),
    ],
)
def test_its_last_lines_tell_why_it_ended(
    code: int | None, line: str, reason: FailureReason
) -> None:
    """LO-WRK-161: the words are those of Triton 2.51.0."""
    assert TritonLauncher().exit_reason(code, ["I1128", line, "bye"]) is reason
