"""The table of moves, and its copy in the specification."""

import re
from itertools import product
from pathlib import Path

import pytest

from contracts.pools import ReplicaState
from pool_managerd.domain.replica_state import MOVES, IllegalMove, Move, after

SPEC = Path(__file__).parents[2] / ".specs" / "pools.md"
ROW = re.compile(r"\| (\w+) \| (\w+) \| (\w+) \|")


def test_the_specification_holds_the_same_table() -> None:
    rows = [found.groups() for line in SPEC.read_text().split("\n") if (found := ROW.match(line))]
    written = {(start, move): end for start, move, end in rows if start != "from"}
    assert written == {(start.value, move.value): end.value for (start, move), end in MOVES.items()}


@pytest.mark.parametrize(("state", "move"), list(product(ReplicaState, Move)))
def test_a_move_leads_where_the_table_says_or_is_refused(state: ReplicaState, move: Move) -> None:
    """LO-POOL-002."""
    if (state, move) in MOVES:
        assert after(state, move) is MOVES[state, move]
    else:
        with pytest.raises(IllegalMove, match=f"{state.value} cannot take `{move.value}`"):
            after(state, move)


def test_every_state_that_can_be_entered_can_be_stopped() -> None:
    entered = set(MOVES.values()) - {ReplicaState.STOPPING, ReplicaState.STOPPED}
    assert all((state, Move.STOP) in MOVES for state in entered)


def test_every_move_is_used() -> None:
    assert {move for _, move in MOVES} == set(Move)
