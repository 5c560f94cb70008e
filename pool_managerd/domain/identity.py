"""What the replicas of a pool have in common while they serve: engine version and digest.

A set is what one change of a pool brings to serve: while a reload runs a pool has two,
each with an identity of its own.  Whoever comes to serve first gives its set its
identity; whoever differs from it does not join.  The identity goes with the last member.

A digest may come later than the first token: the first of a set serves meanwhile, and
whoever comes next waits for it.  One digest is never guessed to equal another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class NoDigest(StrEnum):
    """Why there is no digest."""

    PENDING = "pending"
    """It is being computed."""
    UNREADABLE = "unreadable"
    """It cannot be computed any more; it equals no other, not even another such one."""
    NO_FILE = "no file"
    """The model is no file of ours: its server is somebody else's."""


Digest = str | NoDigest
"""`sha256:` and 64 hex digits, or why there is none."""


@dataclass(frozen=True, slots=True)
class SetKey:
    """One set of replicas: its pool, and the change that brought it."""

    pool_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What must be equal."""

    engine_version: str | None
    """As the engine tells; None: it does not tell."""
    digest: Digest


class Verdict(StrEnum):
    """Whether a replica may serve in its set."""

    JOINED = "joined"
    WAITS = "waits"
    """A digest is not known yet, its own or that of the set."""
    OTHER_VERSION = "other version"
    OTHER_DIGEST = "other digest"


@dataclass
class _Set:
    identity: Identity
    members: set[str] = field(default_factory=set)


class IdentityTable:
    """The identity of every set that serves, and who is in it."""

    def __init__(self) -> None:
        self._sets: dict[SetKey, _Set] = {}

    def of(self, key: SetKey) -> Identity | None:
        """The identity of a set; None: none of it serves."""
        found = self._sets.get(key)
        return None if found is None else found.identity

    def claim(self, key: SetKey, member: str, identity: Identity) -> Verdict:
        """Join a set, or found it; only `JOINED` changes anything."""
        found = self._sets.get(key)
        if found is None:
            self._sets[key] = _Set(identity, {member})
            return Verdict.JOINED
        verdict = _compared(found.identity, identity)
        if verdict is Verdict.JOINED:
            found.members.add(member)
        return verdict

    def learned(self, key: SetKey, member: str, digest: Digest) -> None:
        """The digest of a member that serves is known; of nobody else it is ignored."""
        found = self._sets.get(key)
        if found is None or member not in found.members:
            return
        # While it is pending the founder is alone: nobody can have joined.
        if found.identity.digest is NoDigest.PENDING:
            found.identity = Identity(found.identity.engine_version, digest)

    def left(self, key: SetKey, member: str) -> None:
        """It does not serve any more; leaving twice is no error."""
        found = self._sets.get(key)
        if found is None:
            return
        found.members.discard(member)
        if not found.members:
            del self._sets[key]


def _compared(common: Identity, own: Identity) -> Verdict:
    if own.engine_version != common.engine_version:
        return Verdict.OTHER_VERSION
    if NoDigest.PENDING in (own.digest, common.digest):
        return Verdict.WAITS
    if own.digest is NoDigest.UNREADABLE or own.digest != common.digest:
        return Verdict.OTHER_DIGEST
    return Verdict.JOINED
