"""One life of a replica as a member of its pool: the file it was started with, and its engine.

What counts is the file that the engine loaded, not the one that lies there by now.  So
the stamp of the file is taken before the engine is started, recorded with the launch,
and looked at again once it serves; the digest is that of the stamp.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from contracts.pools import FailureReason
from pool_managerd.domain.identity import Digest, Identity, NoDigest, SetKey, Verdict
from pool_managerd.failure import Failure, LaunchRefused
from pool_managerd.identities import PoolIdentities
from pool_managerd.models.digest import ModelDigests
from pool_managerd.models.model_tree import parts_of
from pool_managerd.readiness import Unfit
from pool_managerd.replica import Replica

LOOK_S = 2.0

_log = structlog.get_logger(__name__)


class Membership:
    """From before the launch to the end of the life.

    Args:
        model: None where it is no file of ours.
        stamp: of the file that the engine was started with; "" where that is not known.
        adopted: whether the engine was started by an earlier start of this daemon.
    """

    def __init__(
        self,
        replica: Replica,
        identities: PoolIdentities,
        digests: ModelDigests,
        model: Path | None,
        stamp: str = "",
        *,
        adopted: bool = False,
    ) -> None:
        self._replica = replica
        self._identities = identities
        self._digests = digests
        self._model = model
        self._stamp = stamp
        self._adopted = adopted
        self._key = SetKey(replica.entry.pool.id, replica.entry.generation)
        self._digest: Digest = NoDigest.NO_FILE if model is None else NoDigest.PENDING
        self._unknown = ""
        self._accepted = anyio.Event()
        self._differs_from: Identity | None = None

    async def check_before_launch(self) -> None:
        """Refuse a file that would not be let in, before an engine loads it.

        Raises:
            LaunchRefused: DIGEST_MISMATCH.
        """
        common = self._identities.of(self._key)
        if common is None or self._model is None or common.digest is NoDigest.PENDING:
            return
        try:
            digest = await self._digests.of(self._model)
        except OSError as error:
            message = f"{self._model}: {error}"
            raise LaunchRefused(FailureReason.MODEL_INVALID, message) from error
        if self._identities.of(self._key) == common != Identity(common.engine_version, digest):
            self._differs_from = common
            raise LaunchRefused(FailureReason.DIGEST_MISMATCH, self._other_digest(common, digest))

    async def learn_digest(self) -> Failure | None:
        """Find out the digest of what was loaded; why the model is refused, if it is."""
        if self._model is None:
            return None
        wanted = self._replica.entry.pool.model.digest
        try:
            digest = await self._digest_of_stamp(self._model)
        except OSError as error:
            if wanted is not None:
                return Failure(FailureReason.MODEL_INVALID, f"{self._model}: {error}")
            _log.warning("model.digest_unknown", model=str(self._model), message=str(error))
            self._unknown = f" ({error})"
            self._learned(NoDigest.UNREADABLE)
            return None
        self._replica.hashed(digest)
        if wanted not in (None, digest) and not await self._begins_with(wanted):
            return Failure(
                FailureReason.MODEL_INVALID,
                f"{self._model} has digest {digest}, and model.digest asks for {wanted};"
                " replace the file or the digest, then restart pool_managerd",
            )
        self._learned(digest)
        self._accepted.set()
        return None

    async def join(self, engine_version: str | None) -> None:
        """Return once it may serve; the caller bounds the wait.

        Raises:
            Unfit: it never may, with the reason.
        """
        if self._model is not None and self._replica.entry.pool.model.digest is not None:
            await self._accepted.wait()
        await self._refuse_if_replaced()
        common = self._identities.of(self._key)

        def own() -> Identity:
            nonlocal common
            common = self._identities.of(self._key)
            return Identity(engine_version, self._digest)

        verdict = await self._identities.join(self._key, self._replica.entry.replica_id, own)
        if verdict is Verdict.JOINED:
            return
        assert common is not None
        self._differs_from = common
        if verdict is Verdict.OTHER_VERSION:
            raise Unfit(self._other_version(common, engine_version))
        message = self._other_digest(common, self._digest)
        raise Unfit(Failure(FailureReason.DIGEST_MISMATCH, message))

    def leave(self) -> None:
        """It does not serve any more."""
        self._identities.left(self._key, self._replica.entry.replica_id)

    async def until_mended(self) -> None:
        """Return once what made it differ is gone: those it differs from, or the file."""
        if self._differs_from is None:
            await anyio.sleep_forever()
        async with anyio.create_task_group() as group:

            async def others() -> None:
                await self._identities.until_other(self._key, self._differs_from)
                group.cancel_scope.cancel()

            group.start_soon(others)
            await self._until_replaced()
            group.cancel_scope.cancel()

    async def _until_replaced(self) -> None:
        while True:
            await anyio.sleep(LOOK_S)
            if self._stamp and await self._stamp_now() not in ("", self._stamp):
                return

    async def _refuse_if_replaced(self) -> None:
        """What an engine loaded is known only if the file is the one it was before."""
        if self._model is None or self._adopted or not self._stamp:
            return
        if await self._stamp_now() != self._stamp:
            pool_id = self._replica.entry.pool.id
            raise Unfit(
                Failure(
                    FailureReason.DIGEST_MISMATCH,
                    f"{self._model} was replaced while the engine loaded it, so that nobody knows"
                    f" what it serves; once the file is whole, run `llama-orch pools resume"
                    f" {pool_id}`",
                )
            )

    async def _stamp_now(self) -> str:
        """The stamp of the file that lies there; "" where there is none."""
        assert self._model is not None
        try:
            return await anyio.to_thread.run_sync(self._digests.stamp, self._model)
        except OSError:
            return ""

    async def _begins_with(self, wanted: str | None) -> bool:
        """Whether it is a split model whose first file is the one asked for.

        Its source tells a digest of each file, and so `model.digest` may name that one.
        """
        assert self._model is not None
        if not parts_of(self._model):
            return False
        try:
            return await self._digests.of_file(self._model) == wanted
        except OSError:
            return False

    async def _digest_of_stamp(self, model: Path) -> str:
        if self._stamp and self._adopted:
            known = await self._digests.known(self._stamp)
            if known is not None:
                return known
        digest = await self._digests.of(model)
        if self._stamp and await self._digests.known(self._stamp) != digest:
            raise OSError("it was replaced since the engine loaded it")
        return digest

    def _learned(self, digest: Digest) -> None:
        self._digest = digest
        self._identities.learned(self._key, self._replica.entry.replica_id, digest)

    def _other_version(self, common: Identity, version: str | None) -> Failure:
        pool = self._replica.entry.pool
        return Failure(
            FailureReason.VERSION_MISMATCH,
            f"its engine is {version or 'of no version that it tells'}, and the others of pool"
            f" {pool.id} serve with {common.engine_version or 'one that tells none'}: exchange all"
            f" of them by `{self._reload()}`, or put the earlier engine back and run"
            f" `llama-orch pools resume {pool.id}`",
        )

    def _other_digest(self, common: Identity, digest: Digest) -> str:
        pool = self._replica.entry.pool
        return (
            f"{self._model} has {_shown(digest)}{self._unknown}, and the others of pool {pool.id}"
            f" serve {_shown(common.digest)}: exchange all of them by `{self._reload()}`,"
            " or put the earlier file back"
        )

    def _reload(self) -> str:
        pool = self._replica.entry.pool
        return f"llama-orch pools reload {pool.id} {pool.model.ref[:512]}"


def _shown(digest: Digest) -> str:
    if isinstance(digest, NoDigest):
        return "a digest that nobody knows"
    return f"digest {digest}"
