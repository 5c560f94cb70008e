"""The tree of engine failures."""

from __future__ import annotations

from contracts.errors import MESSAGE_MAX, RETRIABLE, ErrorCode
from worker_adapters import errors
from worker_adapters.scripted import Fault, fault_error


def leaves() -> set[type[errors.EngineError]]:
    return set(errors.EngineError.__subclasses__())


def test_every_failure_is_drawn_in_the_tree() -> None:
    """LO-WRK-002."""
    assert errors.__doc__ is not None
    assert all(leaf.__name__ in errors.__doc__ for leaf in leaves())


def test_every_failure_can_be_scripted() -> None:
    """LO-WRK-016."""
    assert {type(fault_error(fault)) for fault in Fault} == leaves()


def test_only_a_refusal_is_not_worth_repeating() -> None:
    for fault in Fault:
        error = fault_error(fault)
        assert error.retriable is (not isinstance(error, errors.EngineRefused)), fault
        assert error.retriable is (error.code in RETRIABLE)


def test_a_long_message_is_cut_where_an_envelope_would_refuse_it() -> None:
    assert len(errors.EngineLost("x" * (MESSAGE_MAX + 1)).message) == MESSAGE_MAX


def test_an_unreachable_engine_reads_as_a_reset_worker() -> None:
    assert errors.EngineUnreachable("").code is ErrorCode.WORKER_RESET
