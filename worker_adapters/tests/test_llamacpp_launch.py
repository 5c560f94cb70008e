"""argv and environment of llama.cpp, and the reading of its end."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.pools import FailureReason, PoolWorkload
from worker_adapters.base import LaunchSpec
from worker_adapters.embedded import EmbeddedExit
from worker_adapters.llamacpp_launch import EmbeddedLauncher, LlamaServerLauncher

SPEC = LaunchSpec(
    model_path=Path("/m/a b.gguf"),
    model_alias="qwen",
    host="127.0.0.1",
    port=9001,
    ctx=4096,
    slots=3,
    device_uuids=("GPU-a", "GPU-b"),
    engine_args=("-fa", "on"),
    api_key="sekret",
    binary="/opt/llama-server",
    slot_dir=Path("/s"),
)


def test_llama_server_gets_the_whole_context_and_its_cards_by_uuid() -> None:
    """LO-WRK-001, LO-WRK-011."""
    plan = LlamaServerLauncher().plan(SPEC)
    assert plan.argv == (
        *("/opt/llama-server", "--host", "127.0.0.1", "--port", "9001", "-m", "/m/a b.gguf"),
        *("--alias", "qwen", "--parallel", "3", "--ctx-size", "12288", "-ngl", "999"),
        *("--metrics", "--slots", "--no-webui", "--slot-save-path", "/s", "-fa", "on"),
    )
    assert plan.env == {
        "LLAMA_API_KEY": "sekret",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
    }


@pytest.mark.parametrize(
    ("engine_args", "split"),
    [((), ["2,1"]), (("--tensor-split", "1,1"), ["1,1"]), (("-ts", "1,1"), [])],
)
def test_cards_of_unequal_size_share_the_model_by_it_unless_told_otherwise(
    engine_args: tuple[str, ...], split: list[str]
) -> None:
    """LO-POOL-087."""
    spec = replace(SPEC, tensor_split=(2.0, 1.0), engine_args=engine_args)
    argv = LlamaServerLauncher().plan(spec).argv
    after = [argv[i + 1] for i, argument in enumerate(argv) if argument == "--tensor-split"]
    assert after == split


def test_on_no_card_llama_server_sees_none_and_offloads_nothing() -> None:
    plan = LlamaServerLauncher().plan(replace(SPEC, device_uuids=()))
    assert plan.env["CUDA_VISIBLE_DEVICES"] == ""
    assert plan.argv[plan.argv.index("-ngl") + 1] == "0"


def test_arguments_of_the_configuration_come_last_and_so_win() -> None:
    assert LlamaServerLauncher().plan(SPEC).argv[-2:] == SPEC.engine_args


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ("generation", ()),
        ("embedding", ("--embeddings", "--batch-size", "4096", "--ubatch-size", "4096")),
        ("rerank", ("--reranking", "--batch-size", "4096", "--ubatch-size", "4096")),
    ],
)
def test_each_workload_is_asked_for_in_llama_servers_own_words(
    workload: PoolWorkload, words: tuple[str, ...]
) -> None:
    """LO-WRK-119: its pooling is the model's own."""
    plain = list(LlamaServerLauncher().plan(SPEC).argv)
    argv = LlamaServerLauncher().plan(replace(SPEC, workload=workload)).argv
    at = plain.index("--metrics")
    assert argv == (*plain[:at], *words, *plain[at:])


@pytest.mark.parametrize("workload", ["generation", "embedding", "rerank"])
def test_the_embedded_engine_is_told_its_workload(workload: PoolWorkload) -> None:
    """LO-WRK-119."""
    spec = replace(SPEC, device_uuids=(), engine_args=(), workload=workload)
    argv = EmbeddedLauncher().plan(spec).argv
    assert argv[argv.index("--workload") + 1] == workload


def test_the_embedded_engine_runs_in_this_interpreter() -> None:
    """LO-WRK-001, LO-WRK-011."""
    plan = EmbeddedLauncher().plan(replace(SPEC, device_uuids=(), engine_args=()))
    assert plan.argv[:3] == (sys.executable, "-m", "worker_adapters.embedded")
    assert plan.env == {"LLAMA_API_KEY": "sekret"}


@pytest.mark.parametrize("wrong", [{"engine_args": ()}, {"device_uuids": ()}])
def test_the_embedded_engine_refuses_what_it_cannot_obey(wrong: dict[str, tuple[str]]) -> None:
    with pytest.raises(ValueError, match="neither"):
        EmbeddedLauncher().plan(replace(SPEC, **wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("launcher", [LlamaServerLauncher(), EmbeddedLauncher()])
def test_no_model_is_refused_and_the_key_shows_nowhere(
    launcher: LlamaServerLauncher | EmbeddedLauncher,
) -> None:
    """LO-WRK-011, LO-SYS-032."""
    spec = replace(SPEC, device_uuids=(), engine_args=())
    with pytest.raises(ValueError, match="model file"):
        launcher.plan(replace(spec, model_path=None))
    plan = launcher.plan(spec)
    assert "sekret" not in repr(spec) + repr(plan) + " ".join(plan.argv)


def test_every_exit_of_the_embedded_engine_has_its_reason() -> None:
    reasons = {end: EmbeddedLauncher().exit_reason(end, ()) for end in EmbeddedExit}
    assert reasons == {
        EmbeddedExit.STOPPED: FailureReason.EXITED,
        EmbeddedExit.BAD_ARGUMENT: FailureReason.BAD_ARGUMENT,
        EmbeddedExit.BAD_MODEL: FailureReason.MODEL_MISSING,
        EmbeddedExit.WHEEL_MISSING: FailureReason.TOOL_MISSING,
        EmbeddedExit.PORT_TAKEN: FailureReason.PORT_TAKEN,
        EmbeddedExit.UNFIT_MODEL: FailureReason.WORKLOAD_MISSING,
    }


@pytest.mark.parametrize(
    ("exit_code", "line", "reason"),
    [
        (-9, "", FailureReason.CRASH),
        (1, "couldn't bind HTTP server socket, hostname: h", FailureReason.PORT_TAKEN),
        (1, "exiting due to model loading error", FailureReason.MODEL_MISSING),
        (1, "error: invalid argument: --nope", FailureReason.BAD_ARGUMENT),
        (1, "out of memory", FailureReason.EXITED),
        (None, "error: invalid argument: --nope", FailureReason.BAD_ARGUMENT),
        (None, "", FailureReason.EXITED),
    ],
)
def test_the_last_lines_of_llama_server_tell_why_it_ended(
    exit_code: int | None, line: str, reason: FailureReason
) -> None:
    assert LlamaServerLauncher().exit_reason(exit_code, ["first", line]) is reason


def test_an_exit_code_that_is_lost_is_no_crash() -> None:
    """LO-POOL-136."""
    assert EmbeddedLauncher().exit_reason(None, ()) is FailureReason.EXITED


def test_the_wheel_tells_its_version() -> None:
    """LO-WRK-013."""
    assert (EmbeddedLauncher().engine_version() or "").startswith("xllamacpp 20")
    assert LlamaServerLauncher().engine_version() is None
