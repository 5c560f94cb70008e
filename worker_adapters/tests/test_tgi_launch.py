"""argv and environment of TGI, and the reading of its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contracts.pools import FailureReason
from worker_adapters.base import LaunchSpec
from worker_adapters.tgi_launch import TgiLauncher

SPEC = LaunchSpec(
    model_path=Path("/m/qwen"),
    model_alias="qwen",
    host="127.0.0.1",
    port=9001,
    ctx=4096,
    slots=3,
    device_uuids=("GPU-a", "GPU-b"),
    engine_args=("--dtype", "float16"),
    api_key="sekret",
    binary="/opt/text-generation-launcher",
)


def test_it_is_told_its_size_its_cards_and_its_key() -> None:
    """LO-WRK-001, LO-WRK-011, LO-WRK-155: one request more than its slots, for a proof of life."""
    plan = TgiLauncher().plan(SPEC)
    assert plan.argv == (
        *("/opt/text-generation-launcher", "--model-id", "/m/qwen"),
        *("--hostname", "127.0.0.1", "--port", "9001"),
        *("--max-total-tokens", "4096", "--max-input-tokens", "4095"),
        *("--max-concurrent-requests", "4", "--shard-uds-path", "/tmp/tgi-9001"),
        *("--usage-stats", "off", "--num-shard", "2", "--dtype", "float16"),
    )
    assert plan.env == {
        "API_KEY": "sekret",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.mark.parametrize("arguments", [("--num-shard", "1"), ("--num-shard=1",), ("--sharded",)])
def test_a_pool_may_shard_as_it_likes(arguments: tuple[str, ...]) -> None:
    argv = TgiLauncher().plan(replace(SPEC, engine_args=arguments)).argv
    assert sum("shard" in argument for argument in argv) == len(arguments[:1]) + 1


def test_one_card_needs_no_shards() -> None:
    argv = TgiLauncher().plan(replace(SPEC, device_uuids=("GPU-a",))).argv
    assert "--num-shard" not in argv


def test_on_no_card_it_sees_none() -> None:
    plan = TgiLauncher().plan(replace(SPEC, device_uuids=()))
    assert plan.env["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    "spec", [replace(SPEC, model_path=None), replace(SPEC, workload="embedding")]
)
def test_what_it_cannot_serve_is_no_plan(spec: LaunchSpec) -> None:
    with pytest.raises(ValueError, match="TGI"):
        TgiLauncher().plan(spec)


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        (1, 'Os { code: 98, kind: AddrInUse, message: "..." }', FailureReason.PORT_TAKEN),
        (1, 'Error: ArgumentValidation("`max_input_tokens`...")', FailureReason.BAD_ARGUMENT),
        (2, "error: unexpected argument '--nope' found", FailureReason.BAD_ARGUMENT),
        (2, "error: invalid value 'x' for '--port <PORT>'", FailureReason.BAD_ARGUMENT),
        (1, "text-generation-server not found in PATH", FailureReason.TOOL_MISSING),
        (1, "Error: DownloadError", FailureReason.MODEL_MISSING),
        (1, "FileNotFoundError: No local weights found in /m", FailureReason.MODEL_MISSING),
        (
            1,
            "x is not a local folder and is not a valid model identifier",
            FailureReason.MODEL_MISSING,
        ),
        (1, "Error: ShardCannotStart", FailureReason.EXITED),
        (-9, "Error: DownloadError", FailureReason.CRASH),
        (None, "", FailureReason.EXITED),
    ],
)
def test_its_last_lines_tell_why_it_ended(
    code: int | None, line: str, reason: FailureReason
) -> None:
    """LO-WRK-155."""
    assert TgiLauncher().exit_reason(code, ["INFO", line, "bye"]) is reason
