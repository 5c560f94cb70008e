"""The table of a task's life, every pair of it."""

from __future__ import annotations

from itertools import product

import pytest

from contracts.tasks import TERMINAL, TaskState
from orchestratord.domain.task_state import MOVES, IllegalMove, Move, after

LIFE = {
    ("queued", "start"): "running",
    ("queued", "fail"): "failed",
    ("queued", "cancel"): "canceled",
    ("running", "rerun"): "queued",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "cancel"): "canceled",
}


@pytest.mark.parametrize(("state", "move"), list(product(TaskState, Move)))
def test_every_pair_leads_where_the_table_says_or_nowhere(state: TaskState, move: Move) -> None:
    before = dict(MOVES)
    if (state, move) in LIFE:
        assert after(state, move) == LIFE[state, move]
    else:
        with pytest.raises(IllegalMove, match=f"a task that is {state} cannot {move}"):
            after(state, move)
    assert before == MOVES


def test_terminal_states_have_no_way_out() -> None:
    assert {state for state, _ in MOVES} == set(TaskState) - TERMINAL


def test_every_state_can_be_reached() -> None:
    assert {TaskState.QUEUED, *MOVES.values()} == set(TaskState)
