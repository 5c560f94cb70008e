"""What becomes of a task whose replica is drained under it.

A replica drains for one of two reasons, and then its tasks have until its cut:

1. The pool drains: an operator wants it idle.  A task that still runs at the cut
   ends POOL_DRAINING, retriable, whether or not a token of it was readable.
2. The pool is being reloaded: another model takes its place.  A task of which no
   token was readable goes back in line for that model; one of which a reader has
   seen something cannot, and ends POOL_DRAINING.

An attempt that has not told anybody that it started goes back in line in both cases.
"""

from __future__ import annotations

from contracts.errors import ErrorCode
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.runtime.attempt import Attempt
from orchestratord.runtime.ending import Ending, Failed, Rerun
from orchestratord.runtime.pool_view import PoolsView

EARLY_S = 1.0
"""pool_managerd ends the engine at the cut too, and its clock may be a little ahead."""


def cut_of(pools: PoolsView, spec: PoolSpec, attempt: Attempt, now: float) -> Failed | Rerun | None:
    """The ending of an attempt whose replica drains and is past its cut; None: not so."""
    cut_at = pools.cut_at(attempt.replica.replica_id)
    if cut_at is None or now < cut_at:
        return None
    pool = pools.pools.get(spec.pool_id)
    drains = pool is not None and pool.draining
    if not attempt.announced or (not drains and not attempt.readable):
        return Rerun(f"replica {attempt.replica.replica_id} was drained")
    why = "is drained" if drains else "is given another model"
    sent = "; part of the answer was already sent" if attempt.readable else ""
    return Failed(
        ErrorCode.POOL_DRAINING, f"pool {spec.pool_id} {why} and its deadline has passed{sent}"
    )


def cut_instead(
    pools: PoolsView, spec: PoolSpec, attempt: Attempt, ending: Ending, now: float
) -> Ending:
    """The ending of an attempt that lost its engine, where the drain was what took it."""
    lost = ending.reset if isinstance(ending, Rerun) else False
    if isinstance(ending, Failed):
        lost = ending.code is ErrorCode.WORKER_RESET
    cut = cut_of(pools, spec, attempt, now + EARLY_S) if lost else None
    return cut or ending
