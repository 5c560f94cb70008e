"""Whether a pool can promise equal bytes for equal requests, and why not.

Equal requests give equal bytes where an engine that can promise them for itself
(its `strict_refusal` is null) is of the same version, was launched with the same
settings, has the same model and runs on the same kind of card, on every replica a
task may be placed on.  What a replica does not tell is not promised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from contracts.pools import DeviceView, PoolView, ReplicaState, ReplicaView


@dataclass(frozen=True, slots=True)
class StrictRefusal:
    """Why it cannot be promised, and what to do."""

    reason: str
    remedy: str
    unready: bool = False
    """Nothing speaks against it but that no replica serves yet."""

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


_CAPABLE = "leave `determinism` out, or name a pool whose `strict` is true"
_SETTLED = "try again once the change of the pool is over, or leave `determinism` out"
_ALIKE = "make a pool of each kind, or leave `determinism` out"


def refusal_of_pool(pool: PoolView, devices: Sequence[DeviceView]) -> StrictRefusal | None:
    """Why a new strict task is refused by a pool; None: it is not."""
    ready = [replica for replica in pool.replicas if replica.state is ReplicaState.READY]
    if not ready:
        return StrictRefusal(
            f"no replica of pool {pool.pool_id} serves yet, so that nothing proves what it gives",
            "try again once one is ready",
            unready=True,
        )
    own = (refusal_of_replica(replica) for replica in ready)
    return next(filter(None, own), None) or _unlike(ready, devices)


def refusal_of_replica(replica: ReplicaView) -> StrictRefusal | None:
    """Why one replica, whatever the others are, promises nothing."""
    name = replica.replica_id
    if replica.capabilities is None:
        return StrictRefusal(f"replica {name} has not told what it can do", _CAPABLE)
    if replica.capabilities.strict_refusal is not None:
        return StrictRefusal(f"replica {name}: {replica.capabilities.strict_refusal}", _CAPABLE)
    if replica.engine_version is None:
        return StrictRefusal(f"the engine version of replica {name} is not known", _CAPABLE)
    if replica.model_digest is None:
        return StrictRefusal(f"the model digest of replica {name} is not known", _CAPABLE)
    return None


@dataclass(frozen=True, slots=True)
class AttemptRefusal:
    """Why an attempt on a replica cannot be strict."""

    refusal: StrictRefusal
    elsewhere: bool
    """Whether another replica of the pool may do."""


def refusal_of_attempt(
    pool: PoolView, replica: ReplicaView, devices: Sequence[DeviceView]
) -> AttemptRefusal | None:
    """Why an attempt on `replica` cannot be strict any more; None: it can.

    A replica that promises nothing for itself leaves the others as they are: the
    task may run on one of them.  Where those that do promise are unlike, no choice
    among them helps.
    """
    others = [
        other
        for other in pool.replicas
        if other.replica_id != replica.replica_id
        and other.state is ReplicaState.READY
        and refusal_of_replica(other) is None
    ]
    own = refusal_of_replica(replica)
    if own is not None:
        return AttemptRefusal(own, elsewhere=bool(others))
    unlike = _unlike([replica, *others], devices)
    return None if unlike is None else AttemptRefusal(unlike, elsewhere=False)


def _unlike(replicas: Sequence[ReplicaView], devices: Iterable[DeviceView]) -> StrictRefusal | None:
    """In what the first of the replicas differs from another; None: in nothing that matters."""
    names = {device.uuid: device.name for device in devices}
    first = replicas[0]
    unknown = [uuid for r in replicas for uuid in r.devices if uuid not in names]
    if unknown:
        return StrictRefusal(f"card {unknown[0]} is not known by name", _CAPABLE)
    for other in replicas[1:]:
        both = f"replicas {first.replica_id} and {other.replica_id}"
        for what, one, two in (
            ("engine versions", first.engine_version, other.engine_version),
            ("models", first.model_digest, other.model_digest),
            ("cards", _cards(first, names), _cards(other, names)),
        ):
            if one != two:
                return StrictRefusal(f"{both} have unlike {what}, {one} and {two}", _ALIKE)
        if _settings(first) != _settings(other):
            return StrictRefusal(f"{both} were launched with unlike settings", _SETTLED)
    return None


def _settings(replica: ReplicaView) -> str | None:
    return None if replica.capabilities is None else replica.capabilities.settings_digest


def _cards(replica: ReplicaView, names: Mapping[str, str]) -> str:
    """The kinds of a replica's cards, in the order it was given them."""
    return ", ".join(names[uuid] for uuid in replica.devices) or "CPU"
