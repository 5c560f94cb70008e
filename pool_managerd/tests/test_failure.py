"""What a person reads when an engine ends."""

import signal

import pytest

from contracts.pools import FailureReason as R
from pool_managerd.failure import MESSAGE_CHARACTERS_MAX, exit_failure


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
        (R.MODEL_MISSING, 1, ("CUDA out of memory", "x"), True, R.EXITED, "lower `ctx`"),
        (R.CRASH, -signal.SIGABRT, ("std::bad_alloc",), True, R.CRASH, "lower `ctx`"),
        (R.BAD_ARGUMENT, 1, ("x",), True, R.BAD_ARGUMENT, "`engine_args`"),
        (R.PORT_TAKEN, 1, ("x",), True, R.PORT_TAKEN, "another one is tried"),
        (R.TOOL_MISSING, 69, ("x",), True, R.TOOL_MISSING, "install it"),
    ],
)
def test_an_exit_is_told_by_its_cause_and_remedy(
    reason: R, code: int, tail: tuple[str, ...], model_there: bool, expected: R, words: str
) -> None:
    """LO-POOL-015."""
    failure = exit_failure(reason, code, "engine", tail, model_there=model_there)
    assert failure.reason is expected
    assert failure.message.startswith("engine ")
    assert words in failure.message
    assert failure.log_tail == tail


def test_a_message_is_bounded() -> None:
    failure = exit_failure(R.EXITED, 1, "engine", ("x" * 10_000,), model_there=True)
    assert len(failure.message) == MESSAGE_CHARACTERS_MAX
