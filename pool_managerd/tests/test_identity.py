"""The identity of a set of replicas, as a state machine and by its cases."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pool_managerd.domain.identity import (
    Digest,
    Identity,
    IdentityTable,
    NoDigest,
    SetKey,
    Verdict,
)

OLD, NEW = SetKey("p", 0), SetKey("p", 1)
KEYS = st.sampled_from([OLD, NEW, SetKey("q", 0)])
MEMBERS = st.sampled_from(["p/0", "p/1", "p/2"])
VERSIONS = st.sampled_from(["b1", "b2", None])
KNOWN = st.sampled_from(["sha256:a", "sha256:b"])
DIGESTS = KNOWN | st.sampled_from(list(NoDigest))


class Sets(RuleBasedStateMachine):
    """Replicas come, learn their digests and go; nobody ever serves beside one that differs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = IdentityTable()
        self.serving: dict[tuple[SetKey, str], Identity] = {}

    @rule(key=KEYS, member=MEMBERS, version=VERSIONS, digest=DIGESTS)
    def claims(self, key: SetKey, member: str, version: str | None, digest: Digest) -> None:
        if (key, member) in self.serving:
            return
        before = self.table.of(key)
        own = Identity(version, digest)
        verdict = self.table.claim(key, member, own)
        if verdict is Verdict.JOINED:
            self.serving[key, member] = own
        else:
            assert before is not None
            assert self.table.of(key) == before
        if verdict is Verdict.WAITS:
            assert before is not None
            assert NoDigest.PENDING in (digest, before.digest)

    @rule(key=KEYS, member=MEMBERS, digest=KNOWN | st.just(NoDigest.UNREADABLE))
    def learns(self, key: SetKey, member: str, digest: Digest) -> None:
        own = self.serving.get((key, member))
        if own is not None and own.digest is NoDigest.PENDING:
            self.serving[key, member] = Identity(own.engine_version, digest)
            self.table.learned(key, member, digest)

    @rule(key=KEYS, member=MEMBERS)
    def leaves(self, key: SetKey, member: str) -> None:
        self.serving.pop((key, member), None)
        self.table.left(key, member)

    @invariant()
    def all_of_a_set_are_alike(self) -> None:
        """LO-POOL-171, LO-POOL-172."""
        for key in (OLD, NEW, SetKey("q", 0)):
            alike = {own for (of, _), own in self.serving.items() if of == key}
            assert len(alike) <= 1
            assert self.table.of(key) == next(iter(alike), None)

    @invariant()
    def what_is_not_known_is_alone(self) -> None:
        for own in (NoDigest.PENDING, NoDigest.UNREADABLE):
            for key in {key for (key, _), it in self.serving.items() if it.digest is own}:
                assert sum(of == key for of, _ in self.serving) == 1


TestSets = Sets.TestCase


@pytest.fixture
def table() -> IdentityTable:
    return IdentityTable()


def test_of_two_that_start_at_once_exactly_one_gives_the_pool_its_identity(
    table: IdentityTable,
) -> None:
    """LO-POOL-171."""
    assert table.claim(OLD, "p/0", Identity("b1", "sha256:a")) is Verdict.JOINED
    assert table.claim(OLD, "p/1", Identity("b1", "sha256:b")) is Verdict.OTHER_DIGEST
    assert table.claim(OLD, "p/1", Identity("b2", "sha256:a")) is Verdict.OTHER_VERSION
    assert table.claim(OLD, "p/1", Identity("b1", "sha256:a")) is Verdict.JOINED


def test_the_second_waits_for_the_digest_of_the_first(table: IdentityTable) -> None:
    table.claim(OLD, "p/0", Identity("b1", NoDigest.PENDING))
    second = Identity("b1", "sha256:a")
    assert table.claim(OLD, "p/1", second) is Verdict.WAITS
    table.learned(OLD, "p/1", "sha256:a")
    assert table.claim(OLD, "p/1", second) is Verdict.WAITS, "not a member: not its digest"
    table.learned(OLD, "p/0", "sha256:b")
    assert table.claim(OLD, "p/1", second) is Verdict.OTHER_DIGEST


def test_two_sets_of_a_reload_have_identities_of_their_own(table: IdentityTable) -> None:
    """LO-POOL-173."""
    table.claim(OLD, "p/0", Identity("b1", "sha256:a"))
    assert table.claim(NEW, "p/2", Identity("b2", "sha256:b")) is Verdict.JOINED
    table.left(OLD, "p/0")
    assert table.of(OLD) is None
    assert table.of(NEW) == Identity("b2", "sha256:b")


def test_servers_of_somebody_elses_are_compared_by_version_alone(table: IdentityTable) -> None:
    table.claim(OLD, "p/0", Identity("v1", NoDigest.NO_FILE))
    assert table.claim(OLD, "p/1", Identity("v1", NoDigest.NO_FILE)) is Verdict.JOINED
    assert table.claim(OLD, "p/2", Identity("v2", NoDigest.NO_FILE)) is Verdict.OTHER_VERSION
