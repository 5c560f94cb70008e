"""The one owner of the identities of all pools, for whoever has to wait for one."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from pool_managerd.domain.identity import Digest, Identity, IdentityTable, SetKey, Verdict


class PoolIdentities:
    """The table, and an event for each change of it; looking and joining is one step."""

    def __init__(self) -> None:
        self._table = IdentityTable()
        self._changed = anyio.Event()

    def of(self, key: SetKey) -> Identity | None:
        """The identity of a set; None: none of it serves."""
        return self._table.of(key)

    async def join(self, key: SetKey, member: str, own: Callable[[], Identity]) -> Verdict:
        """Join a set as soon as it can be told whether `own` is of it.

        The caller bounds the wait, and says by `tell` when `own` changes.
        """
        while True:
            verdict = self._table.claim(key, member, own())
            if verdict is not Verdict.WAITS:
                self.tell()
                return verdict
            await self._changed.wait()

    def learned(self, key: SetKey, member: str, digest: Digest) -> None:
        """The digest of a replica is known, whether it has joined or not."""
        self._table.learned(key, member, digest)
        self.tell()

    def left(self, key: SetKey, member: str) -> None:
        """It does not serve any more."""
        self._table.left(key, member)
        self.tell()

    async def until_other(self, key: SetKey, identity: Identity | None) -> None:
        """Return once the identity of a set is another one than this."""
        while self._table.of(key) == identity:
            await self._changed.wait()

    def tell(self) -> None:
        """Wake whoever waits."""
        self._changed.set()
        self._changed = anyio.Event()
