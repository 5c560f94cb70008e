"""argv and environment of vLLM, and the reading of its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.pools import FailureReason
from worker_adapters.base import LaunchSpec
from worker_adapters.openai_launch import AnyServerLauncher
from worker_adapters.vllm_launch import VllmImageLauncher, VllmLauncher

SPEC = LaunchSpec(
    model_path=Path("/m/a b"),
    model_alias="qwen",
    host="127.0.0.1",
    port=9001,
    ctx=4096,
    slots=3,
    device_uuids=("GPU-a", "GPU-b"),
    engine_args=("--dtype", "float16"),
    api_key="sekret",
    binary="/opt/vllm",
)
REST = (
    *("--host", "127.0.0.1", "--port", "9001", "--served-model-name", "qwen"),
    *("--max-model-len", "4096", "--max-num-seqs", "3", "--enable-prompt-tokens-details"),
    *("--disable-access-log-for-endpoints", "/health,/metrics,/version,/v1/models"),
    *("--tensor-parallel-size", "2", "--dtype", "float16"),
)


@pytest.mark.parametrize(
    ("binary", "head"),
    [
        (None, ("vllm", "serve", "/m/a b")),
        ("/opt/vllm", ("/opt/vllm", "serve", "/m/a b")),
        (
            "/venv/bin/python3.11",
            (
                *("/venv/bin/python3.11", "-m", "vllm.entrypoints.openai.api_server"),
                *("--model", "/m/a b"),
            ),
        ),
    ],
)
def test_vllm_is_a_script_or_a_module_of_the_python_that_is_named(
    binary: str | None, head: tuple[str, ...]
) -> None:
    """LO-WRK-001, LO-WRK-134."""
    assert VllmLauncher().plan(replace(SPEC, binary=binary)).argv == (*head, *REST)


def test_it_gets_its_cards_and_its_key_in_the_environment_and_no_way_out() -> None:
    """LO-WRK-011, LO-WRK-135."""
    plan = VllmLauncher().plan(SPEC)
    assert plan.env == {
        "VLLM_API_KEY": "sekret",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    assert "sekret" not in repr(plan) + " ".join(plan.argv)


def test_one_card_is_not_split() -> None:
    argv = VllmLauncher().plan(replace(SPEC, device_uuids=("GPU-a",))).argv
    assert "--tensor-parallel-size" not in argv
    assert "--max-num-batched-tokens" not in argv


def test_on_the_cpu_no_prompt_is_cut_in_two() -> None:
    """LO-WRK-136."""
    plan = VllmLauncher().plan(replace(SPEC, device_uuids=()))
    assert plan.argv[plan.argv.index("--max-num-batched-tokens") + 1] == str(4096 * 3)
    assert plan.env["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("workload", ["embedding", "rerank"])
def test_for_vectors_and_ranks_it_is_started_as_a_pooling_engine(workload: Any) -> None:
    """LO-WRK-134."""
    argv = VllmLauncher().plan(replace(SPEC, workload=workload)).argv
    assert argv[argv.index("--runner") + 1] == "pooling"
    assert "--runner" not in VllmLauncher().plan(SPEC).argv


def test_an_image_has_its_own_entry_point() -> None:
    """LO-WRK-134: what follows the first word is all that the image is given."""
    argv = VllmImageLauncher().plan(replace(SPEC, binary="server")).argv
    assert argv == ("server", "--model", "/m/a b", *REST)


@pytest.mark.parametrize("launcher", [VllmLauncher(), VllmImageLauncher()])
def test_no_model_is_refused(launcher: VllmLauncher) -> None:
    with pytest.raises(ValueError, match="model folder"):
        launcher.plan(replace(SPEC, model_path=None))


# Each line is from the log of a real vLLM 0.32 that ended so, the two of a GPU excepted.
ENDS = [
    (1, "OSError: [Errno 98] Address already in use", FailureReason.PORT_TAKEN),
    (2, "api_server.py: error: unrecognized arguments: --no-such", FailureReason.BAD_ARGUMENT),
    (
        2,
        "api_server.py: error: argument --max-num-seqs: invalid int value: 'many'",
        FailureReason.BAD_ARGUMENT,
    ),
    (
        1,
        (
            "  Value error, User-specified max_model_len (99999) is greater than the derived"
            " max_model_len (max_position_embeddings=8192.0 or model_max_length=None"
        ),
        FailureReason.BAD_ARGUMENT,
    ),
    (
        1,
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or",
        FailureReason.MODEL_MISSING,
    ),
    (
        1,
        "  Value error, Unrecognized model in /m/bad. Should have a `model_type` key in its",
        FailureReason.MODEL_INVALID,
    ),
    (
        1,
        (
            "safetensors._safetensors_rust.SafetensorError: Error while deserializing header:"
            " incomplete metadata, file not fully covered"
        ),
        FailureReason.MODEL_INVALID,
    ),
    (
        1,
        (
            "ValueError: Available memory on node 0 (10.16/11.59 GiB) on kv cache allocation is"
            " less than requested memory for kv (900.0 GiB). Decrease --kv-cache-memory-bytes, "
        ),
        FailureReason.HOST_OOM,
    ),
    (
        1,
        "ValueError: No available memory for the cache blocks. Try increasing",
        FailureReason.VRAM_OOM,
    ),
    (
        1,
        (
            "ValueError: To serve at least one request with the model's max seq len (8192), (1.0"
            " GiB KV cache is needed, which is larger than the available KV cache memory (0.5 GiB)."
        ),
        FailureReason.VRAM_OOM,
    ),
    (1, "RuntimeError: Engine core initialization failed.", FailureReason.EXITED),
    (-9, "", FailureReason.CRASH),
    (None, "OSError: [Errno 98] Address already in use", FailureReason.PORT_TAKEN),
    (None, "", FailureReason.EXITED),
    (0, "", FailureReason.EXITED),
]


@pytest.mark.parametrize(("exit_code", "line", "reason"), ENDS)
def test_the_last_lines_of_vllm_tell_why_it_ended(
    exit_code: int | None, line: str, reason: FailureReason
) -> None:
    """LO-WRK-137."""
    assert VllmLauncher().exit_reason(exit_code, ["first", line, "last"]) is reason


def test_of_any_server_nothing_is_known_but_that_it_ended() -> None:
    """LO-WRK-143."""
    launcher = AnyServerLauncher()
    with pytest.raises(ValueError, match="no program of its own"):
        launcher.plan(SPEC)
    assert launcher.exit_reason(-11, ()) is FailureReason.CRASH
    assert launcher.exit_reason(1, ["invalid argument"]) is FailureReason.EXITED
