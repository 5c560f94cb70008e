"""The life of a replica, as one table.

    stopped --start--> provisioning --spawned--> starting --serves--> ready <-> draining
       ^ |                  |                    ^  |                  | ^
       | +------------------|-------adopt--------+  |                  | |
       |                    +--------fail/give_up---+------------------+ |
       |                              |               unreachable/stalls | serves
       |        backoff <-------------+---> failed                     v |
       |           +--start-->     <--start--+                      unhealthy
       +--gone-- stopping <--stop-- (from everywhere else)

`fail` leads to another try after a delay, `give_up` to `failed`, which is left
by the one half-open try of an open breaker, by an operator's resume, or not at
all.  Both are said only when no process of the replica is left, so that two
never serve one entry.

The same table stands in `.specs/pools.md`, and a test compares them.
"""

from __future__ import annotations

from enum import StrEnum

from contracts.pools import ReplicaState


class Move(StrEnum):
    """What can happen to a replica."""

    START = "start"
    """A launch is being prepared."""
    SPAWNED = "spawned"
    """Its process exists; for an external one: it was first asked."""
    ADOPT = "adopt"
    """Its process was found alive, left by an earlier start of this daemon."""
    SERVES = "serves"
    """It proved who it is and generated a token."""
    UNREACHABLE = "unreachable"
    """It lives but does not answer where it served."""
    STALLS = "stalls"
    """It has work in flight that does not move, or generates no token when asked."""
    DRAIN = "drain"
    """It is given no new work; what runs may finish."""
    RESUME = "resume"
    """It is given new work again."""
    FAIL = "fail"
    """It is gone and will be started again."""
    GIVE_UP = "give_up"
    """It is gone and will not be started for now."""
    STOP = "stop"
    """The daemon wants it stopped."""
    GONE = "gone"
    """Its process group is empty."""


MOVES: dict[tuple[ReplicaState, Move], ReplicaState] = {
    (ReplicaState.STOPPED, Move.START): ReplicaState.PROVISIONING,
    (ReplicaState.STOPPED, Move.ADOPT): ReplicaState.STARTING,
    (ReplicaState.PROVISIONING, Move.SPAWNED): ReplicaState.STARTING,
    (ReplicaState.PROVISIONING, Move.FAIL): ReplicaState.BACKOFF,
    (ReplicaState.PROVISIONING, Move.GIVE_UP): ReplicaState.FAILED,
    (ReplicaState.PROVISIONING, Move.STOP): ReplicaState.STOPPING,
    (ReplicaState.STARTING, Move.SERVES): ReplicaState.READY,
    (ReplicaState.STARTING, Move.FAIL): ReplicaState.BACKOFF,
    (ReplicaState.STARTING, Move.GIVE_UP): ReplicaState.FAILED,
    (ReplicaState.STARTING, Move.STOP): ReplicaState.STOPPING,
    (ReplicaState.READY, Move.UNREACHABLE): ReplicaState.UNHEALTHY,
    (ReplicaState.READY, Move.STALLS): ReplicaState.UNHEALTHY,
    (ReplicaState.READY, Move.DRAIN): ReplicaState.DRAINING,
    (ReplicaState.READY, Move.FAIL): ReplicaState.BACKOFF,
    (ReplicaState.READY, Move.GIVE_UP): ReplicaState.FAILED,
    (ReplicaState.READY, Move.STOP): ReplicaState.STOPPING,
    (ReplicaState.DRAINING, Move.RESUME): ReplicaState.READY,
    (ReplicaState.DRAINING, Move.FAIL): ReplicaState.BACKOFF,
    (ReplicaState.DRAINING, Move.GIVE_UP): ReplicaState.FAILED,
    (ReplicaState.DRAINING, Move.STOP): ReplicaState.STOPPING,
    (ReplicaState.UNHEALTHY, Move.SERVES): ReplicaState.READY,
    (ReplicaState.UNHEALTHY, Move.FAIL): ReplicaState.BACKOFF,
    (ReplicaState.UNHEALTHY, Move.GIVE_UP): ReplicaState.FAILED,
    (ReplicaState.UNHEALTHY, Move.STOP): ReplicaState.STOPPING,
    (ReplicaState.BACKOFF, Move.START): ReplicaState.PROVISIONING,
    (ReplicaState.BACKOFF, Move.STOP): ReplicaState.STOPPING,
    (ReplicaState.FAILED, Move.START): ReplicaState.PROVISIONING,
    (ReplicaState.FAILED, Move.STOP): ReplicaState.STOPPING,
    (ReplicaState.STOPPING, Move.GONE): ReplicaState.STOPPED,
}


SERVING = frozenset({ReplicaState.READY, ReplicaState.DRAINING})
"""It serves what it was given, whether or not it is given more."""


class IllegalMove(Exception):
    """A move the table does not have."""

    def __init__(self, state: ReplicaState, move: Move) -> None:
        super().__init__(f"a replica that is {state} cannot take `{move}`")


def after(state: ReplicaState, move: Move) -> ReplicaState:
    """The state that follows; raises `IllegalMove` where the table has none."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise IllegalMove(state, move) from None
