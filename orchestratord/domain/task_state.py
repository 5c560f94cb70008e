"""The life of a task, as one table.

    queued --start--> running --succeed--> succeeded
      |  ^               |  |
      |  +----rerun------+  +--fail--> failed
      +--cancel--> canceled <--cancel--+
      +--fail----> failed            (a deadline that passed in the queue)

A move that is not in the table is a bug in the caller: it raises and changes
nothing.  Terminal states have no way out, so a task ends exactly once; the
database repeats the rule with a guarded UPDATE.
"""

from __future__ import annotations

from enum import StrEnum

from contracts.tasks import TaskState


class Move(StrEnum):
    """What can happen to a task."""

    START = "start"
    RERUN = "rerun"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


MOVES: dict[tuple[TaskState, Move], TaskState] = {
    (TaskState.QUEUED, Move.START): TaskState.RUNNING,
    (TaskState.QUEUED, Move.FAIL): TaskState.FAILED,
    (TaskState.QUEUED, Move.CANCEL): TaskState.CANCELED,
    (TaskState.RUNNING, Move.RERUN): TaskState.QUEUED,
    (TaskState.RUNNING, Move.SUCCEED): TaskState.SUCCEEDED,
    (TaskState.RUNNING, Move.FAIL): TaskState.FAILED,
    (TaskState.RUNNING, Move.CANCEL): TaskState.CANCELED,
}


class IllegalMove(Exception):
    """A move the table does not have."""

    def __init__(self, state: TaskState, move: Move) -> None:
        super().__init__(f"a task that is {state} cannot {move}")


def after(state: TaskState, move: Move) -> TaskState:
    """The state that follows; raises `IllegalMove` where the table has none."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise IllegalMove(state, move) from None
