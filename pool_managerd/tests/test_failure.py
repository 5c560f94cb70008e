"""What a person reads when an engine ends."""

import os
import signal
from pathlib import Path

import pytest

from contracts.pools import FailureReason as R
from contracts.pools import LastError
from pool_managerd.domain.xid import xid_verdict
from pool_managerd.failure import MESSAGE_CHARACTERS_MAX, Ending, Failure, exit_failure
from pool_managerd.life import engine_failure
from pool_managerd.oom import OomMark, oom_mark
from worker_adapters.errors import EngineProtocolError


@pytest.mark.parametrize(
    ("reason", "code", "tail", "model_there", "expected", "words"),
    [
        (R.EXITED, 3, (), True, R.EXITED, "ended with exit code 3 without a word"),
        (R.EXITED, 3, ("odd",), True, R.EXITED, "its last line: odd"),
        (R.CRASH, -signal.SIGSEGV, (), True, R.CRASH, "crashed with SIGSEGV"),
        (R.CRASH, -signal.SIGKILL, (), True, R.CRASH, "killed by SIGKILL"),
        (R.CRASH, -77, (), True, R.CRASH, "signal 77"),
        (R.MODEL_MISSING, 1, ("x",), False, R.MODEL_MISSING, "did not find the model"),
        (R.MODEL_MISSING, 1, ("x",), True, R.MODEL_INVALID, "damaged"),
        (R.MODEL_MISSING, 1, ("CUDA out of memory", "x"), True, R.VRAM_OOM, "lower `ctx`"),
        (R.CRASH, -signal.SIGABRT, ("std::bad_alloc",), True, R.HOST_OOM, "lower `ctx`"),
        (R.EXITED, 0, (), True, R.EXITED, "ended with exit code 0"),
        (R.EXITED, None, (), True, R.EXITED, "its exit code is lost"),
        (R.EXITED, 1, ("CUDA error: GPU is lost",), True, R.GPU_LOST, "`nvidia-smi`"),
        (R.EXITED, 1, ("Driver/library version mismatch",), True, R.GPU_LOST, "reboot"),
        (R.EXITED, 1, ("no CUDA-capable device is detected",), True, R.GPU_LOST, "reset"),
        (R.EXITED, 1, ("ggml: unable to allocate CUDA0 buffer",), True, R.VRAM_OOM, "the card"),
        (R.BAD_ARGUMENT, 1, ("x",), True, R.BAD_ARGUMENT, "`engine_args`"),
        (R.PORT_TAKEN, 1, ("x",), True, R.PORT_TAKEN, "another one is tried"),
        (R.TOOL_MISSING, 69, ("x",), True, R.TOOL_MISSING, "install it"),
    ],
)
def test_an_exit_is_told_by_its_cause_and_remedy(
    reason: R, code: int | None, tail: tuple[str, ...], model_there: bool, expected: R, words: str
) -> None:
    """LO-POOL-015."""
    failure = exit_failure(reason, Ending(code), "engine", tail, model_there=model_there)
    assert failure.reason is expected
    assert failure.message.startswith("engine ")
    assert words in failure.message
    assert failure.log_tail == tail


def test_a_message_is_bounded() -> None:
    failure = exit_failure(R.EXITED, Ending(1), "engine", ("x" * 10_000,), model_there=True)
    assert len(failure.message) == MESSAGE_CHARACTERS_MAX


@pytest.mark.parametrize("code", [-signal.SIGKILL, 137])
def test_a_kill_is_the_kernels_only_where_its_counter_has_risen(code: int) -> None:
    """LO-POOL-015."""

    def reason(*, oom_killed: bool) -> R:
        ending = Ending(code, oom_killed=oom_killed)
        return exit_failure(R.CRASH, ending, "engine", (), model_there=True).reason

    assert reason(oom_killed=True) is R.HOST_OOM
    assert reason(oom_killed=False) is R.CRASH


@pytest.mark.parametrize(
    ("xid", "reason"), [(79, R.GPU_LOST), (94, R.XID_94), (31, R.XID_31), (13, R.XID_13)]
)
def test_an_error_of_the_driver_goes_before_what_the_engine_says(xid: int, reason: R) -> None:
    """LO-POOL-015."""
    ending = Ending(-signal.SIGSEGV, xid=xid_verdict(xid))
    failure = exit_failure(R.CRASH, ending, "engine", ("CUDA out of memory",), model_there=True)
    assert failure.reason is reason
    assert xid_verdict(xid).remedy in failure.message


def test_a_kill_for_memory_is_told_before_what_the_driver_says_of_the_killed() -> None:
    """LO-POOL-135: Xid 45 follows every kill, and 79 is no consequence of one."""

    def reason(xid: int) -> R:
        ending = Ending(-signal.SIGKILL, oom_killed=True, xid=xid_verdict(xid))
        return exit_failure(R.CRASH, ending, "engine", (), model_there=True).reason

    assert [reason(xid) for xid in (45, 13, 79)] == [R.HOST_OOM, R.HOST_OOM, R.GPU_LOST]


@pytest.mark.parametrize(
    ("told", "tail", "expected"),
    [
        (R.CRASH, (), R.XID_45),
        (R.CRASH, ("CUDA error: out of memory",), R.VRAM_OOM),
        (R.BAD_ARGUMENT, ("x",), R.BAD_ARGUMENT),
    ],
)
def test_xid_45_is_the_cause_only_where_nobody_tells_another(
    told: R, tail: tuple[str, ...], expected: R
) -> None:
    """LO-POOL-135."""
    ending = Ending(-signal.SIGABRT, xid=xid_verdict(45))
    assert exit_failure(told, ending, "engine", tail, model_there=True).reason is expected


def test_kills_of_a_control_group_are_counted_from_the_launch_on(tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    mark = OomMark(counter, 2)
    assert not mark.killed_since()
    counter.write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    assert mark.killed_since()
    counter.unlink()
    assert not mark.killed_since()
    assert oom_mark(os.getpid()).kills >= 0


def test_what_an_engine_says_at_length_fits_a_snapshot() -> None:
    """LO-POOL-060: else it would end the daemon that shows it."""
    failure = engine_failure(EngineProtocolError("it stopped for: " + "q" * 300_000))
    assert failure.message.startswith("what answers does not behave")
    for shown in (failure, Failure(R.MODEL_INVALID, "/m/\udc80.gguf" * 900)):
        error = LastError(reason=shown.reason, message=shown.message, at_ms=0, log_tail=())
        assert len(error.message) == MESSAGE_CHARACTERS_MAX
