"""Whether a replica can still do what its task was promised: it may have changed since."""

from __future__ import annotations

from contracts.errors import ErrorCode
from contracts.pools import ReplicaView
from orchestratord.domain.abilities import refuse_unable, told_by
from orchestratord.domain.pool_spec import PoolSpec
from orchestratord.domain.strictness import refusal_of_attempt
from orchestratord.errors import Unable
from orchestratord.runtime.ending import Failed, Rerun
from orchestratord.runtime.pool_view import PoolsView
from orchestratord.stores.tasks import NewTask


def unserved(
    task: NewTask, spec: PoolSpec, replica: ReplicaView, view: PoolsView
) -> Failed | Rerun | None:
    """How an attempt on `replica` ends before it has begun; None: it may begin."""
    try:
        refuse_unable(task.request, task.sampling, spec, told_by([replica]))
    except Unable as error:
        return Failed(error.code, error.message)
    pool = view.pools.get(spec.pool_id)
    if task.request.determinism != "strict":
        return None
    if pool is None:
        return Rerun(f"nothing is known of pool {spec.pool_id} now")
    found = refusal_of_attempt(pool, replica, view.devices)
    if found is None:
        return None
    if found.elsewhere:
        return Rerun(f"strict output cannot be had here: {found.refusal.reason}")
    return Failed(ErrorCode.INVALID_PARAMS, f"determinism: {found.refusal}")
